import jax
import numpy as np
import pytest

from acmix_jax.data.arrays import ArraySource
from acmix_jax.errors import UserError
from acmix_jax.training.setup import set_up


def test_a_setup_has_the_length_and_the_shapes_of_the_run(config):
    run = set_up(config, jax.devices()[:1])
    assert run.total_steps == 12
    assert run.example["image"].shape == (1, 8, 8, 1)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(run.shapes))
    assert run.shapes.params["head"]["bias"].shape == (10,)


def test_a_run_is_set_up_with_other_examples(config):
    images = ArraySource(np.zeros((128, 9, 9, 3), np.uint8), np.arange(128) % 10)
    run = set_up(config, jax.devices()[:1], images)
    assert run.total_steps == 1
    assert run.example["image"].shape == (1, 9, 9, 3)


def test_the_number_of_classes_follows_the_data_unless_it_is_set(config, capsys):
    images = ArraySource(np.zeros((128, 8, 8, 1), np.uint8), np.arange(128) % 3)
    config.data.num_classes = None
    run = set_up(config, jax.devices()[:1], images)
    assert run.config.data.num_classes == run.task.model.num_classes == 3
    assert config.data.num_classes is None  # the caller's
    assert "classes" not in capsys.readouterr().err
    config.data.num_classes = 7
    assert set_up(config, jax.devices()[:1], images).config.data.num_classes == 7
    assert "warning: the data has 3 classes, the model 7: some outputs are never right" in capsys.readouterr().err


def test_one_class_alone_is_refused(config):
    config.data.num_classes = None
    images = ArraySource(np.zeros((128, 8, 8, 1), np.uint8), np.zeros(128))
    with pytest.raises(UserError, match="the data has one class alone, which leaves nothing to learn"):
        set_up(config, jax.devices()[:1], images)


def test_more_classes_than_the_model_has_are_refused(config):
    config.data.num_classes = 9
    with pytest.raises(UserError, match="the data has 10 classes, the model 9; set --config.data.num_classes=10"):
        set_up(config, jax.devices()[:1])
