"""Swin and PVT: positions, windows, drop path, initialisation."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.backbones import pvt, swin
from acmix_jax.errors import UserError
from acmix_jax.layers.attention import WindowAttention
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.layers.transformer import drop_path_rates

PLAIN = partial(SelfAttention, num_heads=2, attention_kind=partial(WindowAttention, window_size=4), use_proj=True)


def test_position_embeddings_are_interpolated():
    """Bilinear between pixel centres; where the trained grid fits, as they are."""
    grid = jnp.arange(16.0).reshape(1, 16, 1)
    token = jnp.full((1, 1, 1), -5.0)
    position = jnp.concatenate([token, grid], axis=1)
    np.testing.assert_array_equal(pvt._interpolate(position, 1, 4, 4, 4), position)
    wider = pvt._interpolate(position, 1, 4, 4, 8)
    assert wider.shape == (1, 33, 1)
    assert wider[0, 0, 0] == -5
    np.testing.assert_allclose(wider[0, 1:9, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    np.testing.assert_allclose(pvt._interpolate(position, 1, 4, 2, 4)[0, 1:5, 0], [2, 3, 4, 5], atol=1e-6)


def test_class_token_needs_attention():
    with pytest.raises(UserError, match="paths='convolution' leaves the class token without input"):
        model = acmix_jax.create_model("acmix_pvt_micro_patch2", paths="convolution")
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))


def reach(block, size):
    """Numbers of output pixels that change with one input pixel: in the corner, and at the centre."""
    x = jax.random.normal(jax.random.key(0), (1, size, size, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    apply = jax.jit(block.apply)
    before = apply(variables, x)
    return [
        int((np.abs(apply(variables, x.at[0, i, i, 0].add(3.0)) - before).max(axis=-1) > 1e-6).sum())
        for i in (0, size // 2)
    ]


@pytest.mark.parametrize(
    ("size", "shifted", "expected"),
    [
        (8, False, [16, 16]),  # four windows of 4x4
        (8, True, [4, 16]),  # in the corner, a window of 2x2 is left
        (4, True, [16, 16]),  # one window covers the map: no shift
        (3, True, [9, 9]),  # and none larger than the map
        (10, False, [16, 16]),  # padded to 12x12
    ],
)
def test_a_pixel_reaches_its_window(size, shifted, expected):
    block = swin.Block(window_size=4, shifted=shifted, make_mixer=PLAIN)
    assert reach(block, size) == expected


def test_a_map_with_one_side_of_a_window_is_not_shifted():
    """As in the released classifier; here a map of 4x8 pixels and a window of 4."""
    block = swin.Block(window_size=4, shifted=True, make_mixer=PLAIN)
    x = jax.random.normal(jax.random.key(0), (1, 4, 8, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    change = jax.jit(block.apply)(variables, x.at[0, 0, 0, 0].add(3.0)) - jax.jit(block.apply)(variables, x)
    rows, columns = np.nonzero(np.abs(change[0]).max(axis=-1) > 1e-6)
    assert (set(rows), set(columns)) == ({0, 1, 2, 3}, {0, 1, 2, 3})


def test_drop_path_grows_with_depth_and_drops_whole_images():
    assert drop_path_rates(0.3, (1, 2, 1)) == [[0.0], [pytest.approx(0.1), pytest.approx(0.2)], [pytest.approx(0.3)]]
    block = swin.Block(window_size=4, shifted=False, make_mixer=PLAIN, drop_path=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    out = jax.jit(partial(block.apply, train=True))(variables, x, rngs={"dropout": jax.random.key(2)})
    kept = np.abs(out - x).reshape(64, -1).max(axis=1) == 0  # both branches dropped
    assert 4 < kept.sum() < 30  # a quarter of 64 on average
    assert not np.array_equal(jax.jit(block.apply)(variables, x), x)


@pytest.mark.slow
def test_rates_reach_the_blocks():
    model = acmix_jax.create_model("pvt_micro_patch2", num_classes=2, drop_path=0.9, dropout=0.2)
    images = jnp.ones((2, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    train = jax.jit(partial(model.apply, train=True))
    one, two = (train(variables, images, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert np.abs(one - two).max() > 1e-6


@pytest.mark.parametrize(
    "name", ["acmix_swin_micro_patch2", pytest.param("acmix_pvt_micro_patch2", marks=pytest.mark.slow)]
)
def test_initialisation(name):
    """Normal with deviation 0.02 and zero biases in linear maps; PyTorch's default in convolutions; shifts."""
    model = acmix_jax.create_model(name)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"], sep="/").items():
        module, _, kind = path.rpartition("/")
        if module.endswith(("embed", "reduce", "/fc")):
            bound = 1 / np.sqrt(np.prod(variables_kernel(variables, module).shape[:-1]))
            assert np.abs(leaf).max() <= bound, path
            assert leaf.size < 50 or np.abs(leaf).max() > 0.8 * bound, path
        elif kind == "bias":
            assert not leaf.any(), path
        elif kind == "scale":
            assert (leaf == 1).all(), path
        elif path.endswith("shift/kernel"):
            assert leaf.sum() == 9 * leaf.shape[-1], path
        elif kind in ("alpha", "beta"):
            assert leaf == 0.5, path
        elif leaf.size > 1000:
            assert 0.018 < leaf.std() < 0.022, path


def variables_kernel(variables, module):
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")[f"{module}/kernel"]
