import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_jax.ops import shift


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


@pytest.mark.parametrize("form", ["slices", "group_conv"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_shift_kernel_shifts_and_sums(form, stride, kernel_size, dilation):
    dim, outputs = 3, 2
    taps = draw(np.random.default_rng(0), 2, 7, 6, dim, kernel_size**2).astype(jnp.float32)
    kernel = shift.shift_kernel(kernel_size, dim * outputs)
    place = {"stride": stride, "dilation": dilation}
    out = shift.shift_convolution(taps, kernel, form=form, **place)
    wanted = jnp.repeat(shift.shift_and_sum(taps, **place), outputs, axis=-1)
    np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_a_tap_comes_from_its_own_side():
    """Tap 0 of nine looks up and to the left, tap 8 down and to the right (paper, figure 3)."""
    taps = jnp.zeros((1, 3, 3, 1, 9)).at[0, 0, 0, 0, 0].set(1).at[0, 2, 2, 0, 8].set(10)
    assert shift.shift_and_sum(taps)[0, :, :, 0].tolist() == [[0, 0, 0], [0, 11, 0], [0, 0, 0]]


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 8), width=st.integers(1, 8), heads=st.integers(1, 3), kernel_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3), dilation=st.integers(1, 2), fc_bias=st.booleans(),
)  # fmt: skip
def test_forms_agree_in_value_and_gradient(height, width, heads, kernel_size, stride, dilation, fc_bias):
    """All parameters and biases are random, so that a bias that leaks over the border would show."""
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
        place = {"stride": stride, "dilation": dilation}

        def loss(form, x, p):
            if form == "dense":
                out = shift.dense_convolution(x, **p, **place)
            else:
                pieces = jnp.einsum("bhwc,csd->bhwsd", x, p["qkv"]) + p["qkv_bias"]
                taps = shift.mix_pieces(pieces, p["fc"], p["fc_bias"])
                out = shift.shift_convolution(taps, p["kernel"], form=form, **place)
            return (weights * out**2).sum()

        both = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), static_argnums=0)
        wanted, *others = (both(form, x, parameters) for form in reversed(shift.FORMS))
        for found in others:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, wanted)


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), factor=st.integers(1, 4))
def test_fc_before_and_after_repeating_pixels_is_the_same(height, width, factor):
    """Which is why PVT-ACmix mixes k and v on their coarse grid. Pixels beyond the last whole block repeat it."""
    rng = np.random.default_rng(0)
    coarse, fc = draw(rng, 2, -(-height // factor), -(-width // factor), 4, 3), draw(rng, 4, 9)
    coarse = coarse[:, : max(1, height // factor), : max(1, width // factor)]
    repeated = shift.repeat_pixels(coarse, factor, max(height, factor), max(width, factor))
    index = [
        np.minimum(np.arange(max(s, factor)) // factor, n - 1)
        for s, n in zip((height, width), coarse.shape[1:3], strict=True)
    ]
    np.testing.assert_array_equal(repeated, coarse[:, index[0]][:, :, index[1]])
    before = shift.repeat_pixels(shift.mix_pieces(coarse, fc), factor, *repeated.shape[1:3])
    np.testing.assert_allclose(before, shift.mix_pieces(repeated, fc), atol=1e-5)
