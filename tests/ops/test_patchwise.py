from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_jax.errors import UserError
from acmix_jax.ops.neighborhood import window_indices
from acmix_jax.ops.patchwise import aggregate, unfold


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 7), width=st.integers(1, 7), window_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3), dilation=st.integers(1, 2),
)  # fmt: skip
def test_unfold_takes_the_window_of_neighborhood_attention(height, width, window_size, stride, dilation):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    rows, columns = (window_indices(size, window_size, stride, dilation) for size in (height, width))
    expected = x[:, rows][:, :, :, columns].transpose(0, 1, 3, 2, 4, 5)
    out = jax.jit(partial(unfold, window_size=window_size, stride=stride, dilation=dilation))(x)
    np.testing.assert_array_equal(out, expected.reshape(*out.shape))


def test_value_channel_c_uses_weight_channel_c_modulo_their_number():
    weights = jax.random.normal(jax.random.key(0), (1, 5, 6, 2, 9))
    v = jax.random.normal(jax.random.key(1), (1, 5, 6, 8))
    out = jax.jit(lambda w, v: aggregate(w, v, window_size=3))(weights, v)
    patches = np.asarray(unfold(v, window_size=3))
    for channel in range(8):
        expected = (weights[..., channel % 2, :] * patches[..., channel]).sum(axis=-1)
        np.testing.assert_allclose(out[..., channel], expected, atol=1e-5)


def test_an_even_window_is_refused():
    with pytest.raises(UserError, match="window_size=4 has no centre pixel"):
        unfold(jnp.zeros((1, 8, 8, 1)), window_size=4)
