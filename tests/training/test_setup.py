import jax
import pytest

from acmix_jax.errors import UserError
from acmix_jax.training.setup import set_up


def test_a_setup_has_the_length_and_the_shapes_of_the_run(config):
    run = set_up(config, jax.devices()[:1])
    assert run.total_steps == 12
    assert run.example["image"].shape == (1, 8, 8, 1)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(run.shapes))
    assert run.shapes.params["head"]["bias"].shape == (10,)


def test_more_classes_than_the_model_has_are_refused(config):
    config.data.num_classes = 9
    with pytest.raises(UserError, match="the data has 10 classes, the model 9; set --config.data.num_classes=10"):
        set_up(config, jax.devices()[:1])
