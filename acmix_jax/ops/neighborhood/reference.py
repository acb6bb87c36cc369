"""The definition of neighborhood attention."""

import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.ops.attention import dot


def window_indices(size: int, window_size: int, stride: int, dilation: int) -> np.ndarray:
    """Input index of every window tap along one axis, `[ceil(size / stride), window_size]`, reflected at the ends."""
    margin = dilation * (window_size // 2)
    reflected = np.pad(np.arange(size), margin, mode="reflect")
    first = np.arange(0, size, stride)[:, None]
    return reflected[first + dilation * np.arange(window_size)]


def reference_attention(q, k, v, position, window_size, stride, dilation):
    """Neighborhood attention on unfolded windows: a copy of k, v and position for each tap."""
    rows = window_indices(k.shape[1], window_size, stride, dilation)
    columns = window_indices(k.shape[2], window_size, stride, dilation)

    def unfold(x):  # [B, H, W, ...] -> [B, H_out, window, W_out, window, ...]
        return x[:, rows][:, :, :, columns]

    keys = unfold(k)
    if position is not None:
        of_query = position[None, ::stride, None, ::stride, None]  # [1, H_out, 1, W_out, 1, dim]
        keys = keys + (of_query - unfold(position[None]))[..., None, :]
    logits = dot("bijnd,bisjtnd->bijnst", q, keys) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(v.dtype)
    return jnp.einsum("bijnst,bisjtnd->bijnd", weights, unfold(v))
