"""The aggregation of SAN (Zhao et al., CVPR 2020): each pixel sums its window with weights of its own.

Conventions of this file. Windows, strides and reflection are those of ops/neighborhood; the taps of a window are in
row-major order. Channels share weights: channel c of the values uses weight channel `c mod (weight channels)`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from acmix_jax.errors import UserError


def unfold(x: jax.Array, *, window_size: int, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Window around each pixel: `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), window_size**2, C]`.

    Raises:
      UserError: even `window_size` (it has no centre pixel).
    """
    if window_size % 2 == 0:
        raise UserError(f"window_size={window_size} has no centre pixel; use an odd number")
    height, width = x.shape[1:3]
    margin = dilation * (window_size // 2)
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    starts = [dilation * i for i in range(window_size)]
    # One axis at a time: 2 k slices to compile and differentiate instead of k^2.
    rows = jnp.stack([padded[:, y0 : y0 + height : stride] for y0 in starts], axis=3)
    taps = jnp.stack([rows[:, :, x0 : x0 + width : stride] for x0 in starts], axis=4)
    return taps.reshape(*taps.shape[:3], window_size**2, x.shape[-1])


def aggregate(weights: jax.Array, v: jax.Array, *, window_size: int, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Weighted sum of the values in the window of each pixel, with the weights of that pixel.

    Args:
      weights: `[B, ceil(H / stride), ceil(W / stride), shared, window_size**2]`.
      v: `[B, H, W, C]`, C a multiple of `shared`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    patches = unfold(v, window_size=window_size, stride=stride, dilation=dilation)
    shared = weights.shape[3]
    patches = patches.reshape(*patches.shape[:4], v.shape[-1] // shared, shared)  # [B, H, W, taps, C / shared, shared]
    out = jnp.einsum("bhwjt,bhwtsj->bhwsj", weights, patches)
    return lax.collapse(out, 3)
