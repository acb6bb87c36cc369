"""Common to all backbones: four maps with the right strides, for images of any size."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.errors import UserError
from tests.networks import shapes

UP, DOWN = (lambda size, stride: -(-size // stride)), (lambda size, stride: size // stride)
STRIDES = {  # of c2, and how a size that it does not divide is rounded
    "resnet26": (4, UP),
    "resnet14_stem1": (1, UP),
    "resnet20_stem2": (2, UP),
    "san10": (4, DOWN),
    "san10_pairwise": (4, DOWN),
    "san5_stem1": (2, DOWN),
    "pvt_tiny": (4, DOWN),
    "pvt_micro_patch2": (2, DOWN),
    "swin_tiny": (4, UP),
    "swin_micro_patch2": (2, UP),
}


@pytest.mark.parametrize("name", STRIDES)
def test_features_have_their_strides(name):
    size = (45, 70)
    stride, rounded = STRIDES[name]
    for each in (name, "acmix_" + name):
        model, variables = acmix_jax.create_model(each, 10), shapes(each, 10, 3)
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)  # noqa: B023
        assert list(maps) == list(model.backbone.strides) == ["c2", "c3", "c4", "c5"]
        for i, x in enumerate(maps.values()):
            assert x.shape[:3] == (2, *(rounded(s, stride * 2**i) for s in size))
        assert list(model.backbone.strides.values()) == [stride * 2**i for i in range(4)]
        assert list(model.backbone.widths.values()) == [x.shape[-1] for x in maps.values()]


@pytest.mark.parametrize("name", STRIDES)
def test_the_mixing_layer_is_injected(name):
    """Plain and ACmix networks are one backbone: their parameters differ in the mixing layers only."""

    def names(name):
        return {path for path in flax.traverse_util.flatten_dict(shapes(name, 10, 3)) if "mixer" not in path}

    assert names(name) == names("acmix_" + name)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("acmix_resnet50", 8, "8x8 pixels are too small .* at least 32x32"),
        ("san10", 31, "31x31 pixels are too small .* at least 32x32"),
        ("acmix_san5_stem1", 15, "at least 16x16"),
        ("acmix_pvt_tiny", 28, "28x28 pixels are too small .* at least 32x32"),
        ("pvt_micro_patch2", 15, "at least 16x16"),
    ],
)
def test_a_small_image_is_refused(name, size, message):
    model = acmix_jax.create_model(name)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


@pytest.mark.parametrize(
    "name",
    [
        "acmix_swin_micro_patch2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("acmix_san5_stem1", "acmix_pvt_micro_patch2")),
    ],
)
def test_odd_sizes_compute(name):
    model = acmix_jax.create_model(name, num_classes=3)
    images = jax.random.normal(jax.random.key(0), (2, 35, 22, 3))
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(1), images)
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
