"""Cutting maps into tiles of queries, each with the patch of keys that its windows touch.

Two identities make tiles cheap. `q_i . position_i` is the same for all taps of a window and drops out of the softmax,
so the position term is attention over `k - position`. And attending to a reflected copy of a pixel is attending to that
pixel once more: with `n` copies in the window its weight is `n exp(logit)`. So `log(n)`, added to the logit, replaces
both the padding and the mask of the window, and a patch never leaves the map.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from acmix_jax.ops.attention import scale
from acmix_jax.ops.neighborhood.reference import window_indices
from acmix_jax.ops.xla_cpu import add_to_each

_LOG_ZERO = -1e30  # finite, so that the sum of two is no NaN


class Cut(NamedTuple):
    """One axis, cut into tiles of queries."""

    starts: list[int]  # first index of the patch of each tile
    patch: int  # length of a patch
    log_copies: np.ndarray  # [tiles, tile, patch]: log of how often a query's window holds an index of the patch


def cut_map(size, window_size, stride, dilation, largest):
    """Cuts both axes of a map of keys of `size` (height, width) into tiles of at most `largest` (y, x) queries."""
    return tuple(_cut_axis(n, window_size, stride, dilation, most) for n, most in zip(size, largest, strict=True))


def _cut_axis(size, window_size, stride, dilation, largest):
    windows = window_indices(size, window_size, stride, dilation)
    tiles = -(-len(windows) // largest)
    tile = -(-len(windows) // tiles)
    windows = windows[np.minimum(np.arange(tiles * tile), len(windows) - 1)].reshape(tiles, tile, window_size)
    patch = 1 + (windows.max((1, 2)) - windows.min((1, 2))).max()
    starts = np.minimum(windows.min((1, 2)), size - patch)
    copies = (windows[..., None] == (starts[:, None] + np.arange(patch))[:, None, None]).sum(2)
    return Cut(starts.tolist(), int(patch), np.where(copies, np.log(np.maximum(copies, 1)), _LOG_ZERO))


def log_copies(rows, columns, dtype):
    """`Cut.log_copies` of both axes together, `[tiles_y, tiles_x, queries, keys]`."""
    y, x = rows.log_copies, columns.log_copies
    both = y[:, None, :, None, :, None] + x[None, :, None, :, None, :]
    return jnp.asarray(both.reshape(*both.shape[:2], y.shape[1] * x.shape[1], -1), dtype)


def prepare(q, k, v, position):
    """Scales q, subtracts the position from k, and puts the heads of k and v first, `[B, heads, H, W, dim]`."""
    if position is not None:
        k = add_to_each(k, -jnp.broadcast_to(position[:, :, None], k.shape[1:]))
    return scale(q), k.transpose(0, 3, 1, 2, 4), v.transpose(0, 3, 1, 2, 4)


def to_tiles(x, rows, columns):
    """`[B, H, W, heads, dim]` to `[tiles_y, B, heads, tiles_x, queries, dim]`; zeros where a tile leaves the map."""
    (tiles_y, height, _), (tiles_x, width, _) = rows.log_copies.shape, columns.log_copies.shape
    bottom, right = tiles_y * height - x.shape[1], tiles_x * width - x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0), (0, 0)))
    return rearrange(x, "b (ty y) (tx x) heads dim -> ty b heads tx (y x) dim", y=height, x=width)


def from_tiles(x, rows, columns, size):
    """The inverse of `to_tiles`, for a map of `size` (height, width)."""
    height, width = rows.log_copies.shape[1], columns.log_copies.shape[1]
    x = rearrange(x, "ty b heads tx (y x) dim -> b (ty y) (tx x) heads dim", y=height, x=width)
    return x[:, : size[0], : size[1]]
