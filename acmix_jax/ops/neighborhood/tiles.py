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
    cuts = []
    for length, most in zip(size, largest, strict=True):
        copies = count_copies(length, window_size, stride, dilation)
        tiles = -(-copies.shape[0] // most)
        cuts.append(cut_axis(copies, -(-copies.shape[0] // tiles)))
    return tuple(cuts)


def count_copies(size, window_size, stride, dilation):
    """Counts how often the window of each query holds each key of an axis, int `[ceil(size / stride), size]`."""
    return (window_indices(size, window_size, stride, dilation)[..., None] == np.arange(size)).sum(1)


def cut_axis(copies, tile):
    """Cuts the queries of `copies` `[queries, keys]` into tiles of `tile`; the last query fills up the last tile."""
    queries, keys = copies.shape
    copies = copies[np.minimum(np.arange(-(-queries // tile) * tile), queries - 1)].reshape(-1, tile, keys)
    held = copies.any(1)
    first, last = held.argmax(1), np.where(held.any(1), keys - 1 - held[:, ::-1].argmax(1), 0)
    patch = 1 + (last - first).max()
    starts = np.minimum(first, keys - patch)
    copies = np.take_along_axis(copies, (starts[:, None] + np.arange(patch))[:, None], axis=2)
    return Cut(starts.tolist(), int(patch), np.where(copies, np.log(np.maximum(copies, 1)), _LOG_ZERO))


def log_copies(rows, columns, dtype):
    """`Cut.log_copies` of both axes together, `[tiles_y, tiles_x, queries, keys]`."""
    y, x = rows.log_copies, columns.log_copies
    both = y[:, None, :, None, :, None] + x[None, :, None, :, None, :]
    return jnp.asarray(both.reshape(*both.shape[:2], y.shape[1] * x.shape[1], -1), dtype)


def subtract_position(k, position):
    """Keys `[B, H, W, heads, dim]` minus the position `[H, W, dim]` of their pixel, or None for no position term."""
    if position is None:
        return k
    # In one axis of channels, so that XLA can join the subtraction to the product that made k.
    flat = k.reshape(*k.shape[:3], k.shape[3] * k.shape[4])
    return add_to_each(flat, -jnp.tile(position, k.shape[3])).reshape(k.shape)


def prepare(q, k, v, position):
    """Scales q, subtracts the position from k, and puts the heads of k and v first, `[B, heads, H, W, dim]`."""
    k = subtract_position(k, position)
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
