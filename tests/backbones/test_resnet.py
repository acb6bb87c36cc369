from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.errors import UserError


@pytest.mark.parametrize("name", ["resnet26", "acmix_resnet26", "acmix_resnet14_stem1", "acmix_resnet20_stem2"])
@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_features_have_their_strides(name, size):
    model = acmix_jax.create_model(name)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    first = {"resnet14_stem1": 1, "resnet20_stem2": 2}.get(name.removeprefix("acmix_"), 4)
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    for i, x in enumerate(maps.values()):
        assert x.shape[1:3] == tuple(-(-s // (first * 2**i)) for s in size)


def test_the_mixing_layer_is_injected():
    """Plain and ACmix networks are one backbone: their parameters differ in the mixing layers only."""

    def names(model):
        variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
        return {path for path in paths if "mixer" not in path}

    assert names(acmix_jax.create_model("resnet26")) == names(acmix_jax.create_model("acmix_resnet26"))


def test_batch_statistics_move_in_training_only():
    model = acmix_jax.create_model("acmix_resnet14_stem1", num_classes=3)
    images = 5 + jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    _, changed = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    before, after = (v["batch_stats"]["backbone"]["stem_norm"]["mean"] for v in (variables, changed))
    assert np.abs(after - before).max() > 0.01
    predict = jax.jit(model.apply)
    logits = predict(variables, images)
    np.testing.assert_allclose(predict(variables, images[:2]), logits[:2], atol=1e-4)
    assert logits.dtype == jnp.float32


def test_a_small_image_is_refused():
    model = acmix_jax.create_model("acmix_resnet50")
    with pytest.raises(UserError, match="8x8 pixels are too small .* at least 32x32"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
