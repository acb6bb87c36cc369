from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acmix_jax.ops import shift


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


@pytest.mark.parametrize("form", shift.PIECE_FORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_shift_kernel_shifts_and_sums(form, stride, kernel_size, dilation):
    dim, outputs = 3, 2
    pieces = draw(np.random.default_rng(0), 2, 7, 6, kernel_size**2, dim).astype(jnp.float32)
    kernel, fc = shift.shift_kernel(kernel_size, dim * outputs), jnp.eye(kernel_size**2)
    grid = {"stride": stride, "dilation": dilation}

    @jax.jit
    def kernel_and_slices(pieces):
        out = shift.shift_convolution(pieces, fc, None, kernel, form=form, **grid)
        return out, jnp.repeat(shift.shift_and_sum(pieces.swapaxes(3, 4), **grid), outputs, axis=-1)

    np.testing.assert_allclose(*kernel_and_slices(pieces), atol=1e-5)


def test_a_tap_comes_from_its_own_side():
    """Tap 0 of nine looks up and to the left, tap 8 down and to the right (paper, figure 3)."""
    taps = jnp.zeros((1, 3, 3, 1, 9)).at[0, 0, 0, 0, 0].set(1).at[0, 2, 2, 0, 8].set(10)
    assert shift.shift_and_sum(taps)[0, :, :, 0].tolist() == [[0, 0, 0], [0, 11, 0], [0, 0, 0]]


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 8), width=st.integers(1, 8), heads=st.integers(1, 3), kernel_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3), dilation=st.integers(1, 2), fc_bias=st.booleans(),
)  # fmt: skip
@example(height=5, width=4, heads=24, kernel_size=3, stride=2, dilation=1, fc_bias=True)
def test_forms_agree_in_value_and_gradient(height, width, heads, kernel_size, stride, dilation, fc_bias):
    """All parameters and biases are random, so that a bias that leaks over the border shows."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(height * 100 + width)
        features_in, dim = 5, 2
        x = draw(rng, 2, height, width, features_in)
        parameters = {
            "qkv": draw(rng, features_in, 3 * heads, dim),
            "qkv_bias": draw(rng, 3 * heads, dim),
            "fc": draw(rng, 3 * heads, kernel_size**2),
            "fc_bias": draw(rng, kernel_size**2) if fc_bias else None,
            "kernel": draw(rng, kernel_size, kernel_size, kernel_size**2, dim * heads),
        }
        weights = draw(rng, 2, -(-height // stride), -(-width // stride), dim * heads)
        grid = {"stride": stride, "dilation": dilation}

        def loss(form, x, p):
            if form == "dense":
                out = shift.composed_convolution(x, *shift.compose(**p), **grid)
            else:
                pieces = jnp.einsum("bhwc,csd->bhwsd", x, p["qkv"]) + p["qkv_bias"]
                out = shift.shift_convolution(pieces, p["fc"], p["fc_bias"], p["kernel"], form=form, **grid)
            return (weights * out**2).sum()

        @jax.jit  # one program for all forms
        def by_form(x, parameters):
            return {f: jax.value_and_grad(partial(loss, f), argnums=(0, 1))(x, parameters) for f in shift.FORMS}

        results = by_form(x, parameters)
        expected = results.pop("slices")
        for actual in results.values():
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), actual, expected)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), factor=st.integers(1, 4), kernel_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2), dilation=st.integers(1, 2),
)  # fmt: skip
def test_a_coarser_grid_is_repeated_first(height, width, factor, kernel_size, stride, dilation):
    """Pixels beyond the last whole block repeat the last coarse one (PVT-ACmix on any image size)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(height * 100 + width)
        coarse = draw(rng, 2, max(1, height // factor), max(1, width // factor), 4, 3)
        fc, kernel = draw(rng, 4, kernel_size**2), draw(rng, kernel_size, kernel_size, kernel_size**2, 6)
        grid = {"stride": stride, "dilation": dilation}

        def fast(coarse, fc, kernel):
            return shift.repeated_shift_convolution(coarse, fc, kernel, factor=factor, size=(height, width), **grid)

        def plain(coarse, fc, kernel):
            return shift.shift_convolution(shift.repeat_pixels(coarse, factor, height, width), fc, None, kernel, **grid)

        weights = draw(rng, *jax.eval_shape(plain, coarse, fc, kernel).shape)

        def value_and_gradient(f, *arguments):
            return jax.value_and_grad(lambda *a: (weights * f(*a) ** 2).sum(), argnums=(0, 1, 2))(*arguments)

        @jax.jit
        def both(*arguments):
            return value_and_gradient(fast, *arguments), value_and_gradient(plain, *arguments)

        actual, expected = both(coarse, fc, kernel)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), actual, expected)


def test_pixels_are_repeated_in_blocks():
    """Pixels beyond the last whole block repeat the last coarse one; fc may mix before or after (PVT-ACmix)."""
    rng = np.random.default_rng(0)
    coarse, fc = draw(rng, 2, 1, 2, 4, 3), draw(rng, 4, 9)
    repeated = shift.repeat_pixels(coarse, 2, 3, 5)
    np.testing.assert_array_equal(repeated, coarse[:, [0, 0, 0]][:, :, [0, 0, 1, 1, 1]])
    before = shift.repeat_pixels(shift.mix_pieces(coarse, fc), 2, 3, 5)
    np.testing.assert_allclose(before, shift.mix_pieces(repeated, fc), atol=1e-5)
