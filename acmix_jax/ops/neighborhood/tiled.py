"""Neighborhood attention as two batched matrix products over tiles; keeps the weights for the backward pass."""

import jax.numpy as jnp

from acmix_jax.ops.attention import attend, dot
from acmix_jax.ops.neighborhood.tiles import cut_map, from_tiles, log_copies, prepare, to_tiles

LARGEST_TILE = (8, 8)  # queries, (y, x)


def tiled_attention(q, k, v, position, window_size, stride, dilation):
    """Neighborhood attention of all tiles at once."""
    q, k, v = prepare(q, k, v, position)
    rows, columns = cut_map(k.shape[2:4], window_size, stride, dilation, LARGEST_TILE)
    keys, values = (_patches(x, rows, columns) for x in (k, v))
    copies = log_copies(rows, columns, jnp.promote_types(q.dtype, jnp.float32))
    logits = dot("...qd,...kd->...qk", to_tiles(q, rows, columns), keys) + copies[:, None, None]
    out, _ = attend(logits, values)
    return from_tiles(out, rows, columns, q.shape[1:3])


def _patches(x, rows, columns):
    """Patches of all tiles: `[B, heads, H, W, dim]` to `[tiles_y, B, heads, tiles_x, keys, dim]`."""
    x = jnp.stack([x[:, :, start : start + rows.patch] for start in rows.starts])
    x = jnp.stack([x[..., start : start + columns.patch, :] for start in columns.starts], axis=-4)
    return x.reshape(*x.shape[:4], rows.patch * columns.patch, x.shape[-1])
