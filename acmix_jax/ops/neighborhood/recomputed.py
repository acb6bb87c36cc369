"""Flash-style neighborhood attention: row after row of small tiles, whose weights the backward pass rematerialises.

Only the weights of one row of tiles exist at any time, and they fit into a cache. The backward pass keeps q, k, v, the
output and the log-sum-exp of each query (Dao et al., NeurIPS 2022).
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from acmix_jax.ops.attention import attend, dot
from acmix_jax.ops.neighborhood.tiles import cut_map, from_tiles, log_copies, prepare, to_tiles
from acmix_jax.ops.own_gradient import OwnGradient

LARGEST_TILE = 4  # queries per axis, but see _cut


def recomputed_attention(q, k, v, position, window_size, stride, dilation):
    """Neighborhood attention by a scan over the rows of tiles."""
    q, k, v = prepare(q, k, v, position)
    rows, columns = _cut(k.shape[2:4], window_size, stride, dilation)
    k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
    out = _scan(window_size, stride, dilation)(to_tiles(q, rows, columns), k, v)
    return from_tiles(out, rows, columns, q.shape[1:3])


def _cut(size, window_size, stride, dilation):
    # With a stride, windows overlap less: fewer queries in y keep the patch about as large.
    return cut_map(size, window_size, stride, dilation, (max(1, LARGEST_TILE // stride), LARGEST_TILE))


@cache
def _scan(*window):
    """Attention of tiles: q `[tiles_y, B, heads, tiles_x, queries, dim]` to the same shape.

    k, v: `[B * heads, H, W, dim]`. With B and heads as two axes, XLA on CPUs would write k and v twice.
    """
    forward, backward = partial(_forward, window), partial(_backward, window)
    return OwnGradient(lambda *qkv: forward(*qkv)[0], forward, backward, arity=3)


def _forward(window, q, k, v):
    rows, columns = _cut(k.shape[1:3], *window)

    def row_of_tiles(_, xs):
        q, copies, start = xs
        keys, values = (_patches(x, start, rows, columns, q.shape[:2]) for x in (k, v))
        return None, attend(dot("...qd,...kd->...qk", q, keys) + copies, values)

    copies = log_copies(rows, columns, jnp.promote_types(q.dtype, jnp.float32))
    _, (out, log_sum) = lax.scan(row_of_tiles, None, (q, copies, jnp.asarray(rows.starts)))
    return out, log_sum


def _backward(window, q, k, v, out, log_sum, dout):
    rows, columns = _cut(k.shape[1:3], *window)
    wide = log_sum.dtype

    def row_of_tiles(totals, xs):
        q, q_transposed, out, log_sum, dout, dout_transposed, copies, start = xs
        keys, values = (_patches(x, start, rows, columns, q.shape[:2]) for x in (k, v))
        weights = jnp.exp(dot("...qd,...kd->...qk", q, keys) + copies - log_sum)
        mean = (dout.astype(wide) * out.astype(wide)).sum(axis=-1, keepdims=True)
        dlogits = (weights * (dot("...qd,...kd->...qk", dout, values) - mean)).astype(q.dtype)
        dq = jnp.einsum("...qk,...kd->...qd", dlogits, keys)
        # Sums over queries. With the result as [keys, dim], XLA on CPUs would transpose the larger operand.
        dkeys = jnp.einsum("...dq,...qk->...dk", q_transposed, dlogits)
        dvalues = jnp.einsum("...dq,...qk->...dk", dout_transposed, weights.astype(q.dtype))
        dk, dv = totals
        return (_add_patches(dk, dkeys, start, rows, columns), _add_patches(dv, dvalues, start, rows, columns)), dq

    def zeros(x):  # [B, heads, dim, H, W], from any x [B]
        # They depend on x, so that XLA on CPUs cannot hoist them out of the backward pass and keep copies of them.
        zero = (jnp.isnan(x) & (x > 0)).astype(wide)[:, None, None, None, None]
        return jnp.broadcast_to(zero, (*q.shape[1:3], k.shape[3], *k.shape[1:3]))

    totals = zeros(dout[0, :, 0, 0, 0, 0]), zeros(dout[0, :, 0, 0, -1, -1])  # from the same x, they would be one array
    tiles = (
        q, q.swapaxes(-1, -2), out, log_sum, dout, dout.swapaxes(-1, -2), log_copies(rows, columns, wide),
        jnp.asarray(rows.starts),
    )  # fmt: skip
    totals, dq = lax.scan(row_of_tiles, totals, tiles)
    dk, dv = (total.transpose(0, 1, 3, 4, 2).reshape(k.shape) for total in totals)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


def _patches(x, start, rows, columns, batch_and_heads):
    """Patches of the row of tiles at `start`: `[B * heads, H, W, dim]` to `[B, heads, tiles_x, keys, dim]`.

    One gather, faster on CPUs than slices (docs/notes/xla_cpu.md). Its gradient would be a slow scatter; `_backward`
    uses `_add_patches` instead.
    """
    *_, width, dim = x.shape
    x = x.reshape(*batch_and_heads, x.shape[1], width * dim)
    size = (*x.shape[:2], rows.patch, columns.patch * dim)
    cut = jax.vmap(lambda column: lax.dynamic_slice(x, (0, 0, start, column * dim), size), out_axes=2)
    return cut(jnp.asarray(columns.starts)).reshape(*x.shape[:2], len(columns.starts), rows.patch * columns.patch, dim)


def _add_patches(total, patches, start, rows, columns):
    """Adds patches `[B, heads, tiles_x, dim, keys]` to the rows of total `[B, heads, dim, H, W]` from `start` on."""
    patches = patches.reshape(*patches.shape[:4], rows.patch, columns.patch)
    beyond = total.shape[4] - columns.patch
    added = sum(
        jnp.pad(patches[:, :, i].astype(total.dtype), ((0, 0), (0, 0), (0, 0), (0, 0), (s, beyond - s)))
        for i, s in enumerate(columns.starts)
    )
    added += lax.dynamic_slice_in_dim(total, start, rows.patch, axis=3)
    return lax.dynamic_update_slice_in_dim(total, added, start, axis=3)
