"""The aggregation of SAN (Zhao et al., CVPR 2020): each pixel sums its window with weights of its own.

Conventions of this file. Windows, strides and reflection are those of ops/neighborhood.py; the taps of a window are
ordered row by row. Weights are shared: channel c of the values uses weight channel `c mod (weight channels)`.
"""

import jax.numpy as jnp

from acmix_jax.errors import UserError


def unfold(x, *, window_size, stride=1, dilation=1):
    """The window around each pixel: `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), window_size**2, C]`.

    Raises:
      UserError: an even `window_size` (it has no centre pixel).
    """
    if window_size % 2 == 0:
        raise UserError(f"window_size={window_size} has no centre pixel; use an odd number")
    height, width = x.shape[1:3]
    margin = dilation * (window_size // 2)
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    starts = [dilation * i for i in range(window_size)]
    # One axis after the other: 2 k slices to compile and differentiate, not k^2.
    rows = jnp.stack([padded[:, y : y + height : stride] for y in starts], axis=3)
    taps = jnp.stack([rows[:, :, z : z + width : stride] for z in starts], axis=4)
    return taps.reshape(*taps.shape[:3], window_size**2, x.shape[-1])


def aggregate(weights, v, *, window_size, stride=1, dilation=1):
    """Sums each pixel's window of values with that pixel's weights.

    Args:
      weights: `[B, ceil(H / stride), ceil(W / stride), shared, window_size**2]`.
      v: `[B, H, W, C]`, C a multiple of `shared`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    patches = unfold(v, window_size=window_size, stride=stride, dilation=dilation)
    patches = patches.reshape(*patches.shape[:4], -1, weights.shape[3])  # [B, H, W, taps, C / shared, shared]
    out = jnp.einsum("bhwjt,bhwtsj->bhwsj", weights, patches)
    return out.reshape(*out.shape[:3], -1)
