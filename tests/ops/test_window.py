import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_jax.ops.attention import softmax_attention
from acmix_jax.ops.window import pad_to_multiple, partition, relative_position_index, reverse, shift_mask, table_window

sizes = st.integers(1, 4)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(window=st.tuples(sizes, sizes), count=st.tuples(sizes, sizes))
def test_reverse_undoes_partition(window, count):
    height, width = (w * n for w, n in zip(window, count, strict=True))
    x = np.arange(2 * height * width * 3).reshape(2, height, width, 3)
    windows = partition(x, window)
    assert windows.shape == (2, count[0] * count[1], window[0] * window[1], 3)
    np.testing.assert_array_equal(windows[:, 0].reshape(2, *window, 3), x[:, : window[0], : window[1]])
    np.testing.assert_array_equal(reverse(windows, window, height, width), x)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(window=st.tuples(sizes, sizes), count=st.tuples(sizes, sizes), data=st.data())
def test_mask_separates_pixels_that_only_the_roll_joined(window, count, data):
    """Two pixels of a rolled window may meet if they were nearer than a window before the roll."""
    height, width = (w * n for w, n in zip(window, count, strict=True))
    shift = tuple(data.draw(st.integers(0, w - 1)) if n > 1 else 0 for w, n in zip(window, count, strict=True))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    index = np.roll(np.stack([rows, columns], axis=-1), (-shift[0], -shift[1]), axis=(0, 1))[None]
    index = partition(index, window)[0]  # [windows, pixels, 2], of each pixel before the roll
    distance = np.abs(index[:, :, None] - index[:, None]).astype(int)
    near = (distance < np.array(window)).all(axis=-1)
    np.testing.assert_array_equal(shift_mask(height, width, window, shift), np.where(near, 0, -100))


def test_small_windows_use_the_same_offsets():
    """The entry of two pixels depends on their offset alone, not on the size of the window."""
    whole = relative_position_index((4, 4), 4).reshape(4, 4, 4, 4)
    small = relative_position_index((2, 3), 4).reshape(2, 3, 2, 3)
    np.testing.assert_array_equal(small, whole[:2, :3, :2, :3])
    assert whole[0, 0, 3, 3] == 0
    assert whole[3, 3, 0, 0] == 48
    assert len(np.unique(whole)) == 49


def test_padding_is_at_the_bottom_and_the_right():
    x = pad_to_multiple(jnp.ones((1, 5, 4, 1)), (3, 4))
    assert x.shape == (1, 6, 4, 1)
    assert x[0, :5].min() == 1
    assert x[0, 5:].max() == 0


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_attention_is_a_weighted_mean(dtype, atol):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, 3, 8), dtype) for i in range(3))
    bias = jax.random.normal(jax.random.key(3), (3, 5, 5))
    out = jax.jit(softmax_attention)(q, k, v, bias)
    assert out.dtype == dtype
    q, k, v = (np.float64(x) for x in (q, k, v))
    for batch in range(2):
        for head in range(3):
            logits = q[batch, :, head] @ k[batch, :, head].T / 8**0.5 + bias[head]
            weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            expected = weights @ v[batch, :, head]
            np.testing.assert_allclose(np.float64(out[batch, :, head]), expected, atol=atol)


@pytest.mark.parametrize("window", [1, 2, 7, 8, 12, 24])
def test_a_table_has_a_row_for_each_offset_in_a_window(window):
    assert relative_position_index((window, window), window).max() + 1 == (2 * window - 1) ** 2
    assert table_window((2 * window - 1) ** 2) == window
