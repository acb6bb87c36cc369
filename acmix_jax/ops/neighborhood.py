"""Local ("neighborhood") attention: every query attends to a k x k window of keys around it.

Conventions of this file. Maps are NHWC with the heads apart, `[B, H, W, heads, dim]`. The query of output pixel
(i, j) sits at input pixel (stride * i, stride * j), so the output is ceil(H / stride) high. Tap t of its window is
input row `stride * i + dilation * (t - window_size // 2)`; a row outside the map is reflected back into it (no
edge repeat), as often as needed. A map smaller than the window is therefore seen several times over, and a 1 x 1
map fills its window alone.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.errors import UserError, check_choice
from acmix_jax.ops.attention import attend, dot, scale
from acmix_jax.ops.xla_cpu import add_to_each

LARGEST_TILE = 8  # queries per tile and axis
RECOMPUTED_TILE = 4  # the same in the recomputed form, but see _recomputed_cuts
LARGEST_KEPT = 512  # queries; the weights of a larger map of them are computed again for the gradient
_NEVER = -1e30  # stands for log(0); finite, so that adding two of them gives no NaN


def position_map(height: int, width: int, dtype=jnp.float32) -> jax.Array:
    """Coordinates of every pixel, `[H, W, 2]`: first x, then y, each from -1 to 1 (the released `position`)."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1).astype(dtype)


def fastest_form(height: int, width: int) -> str:
    """The form to train with on a map of queries of this size, measured on CPUs alone (docs/performance.md)."""
    return "recomputed" if height * width > LARGEST_KEPT else "tiled"


def neighborhood_attention(q, k, v, position=None, *, window_size=7, stride=1, dilation=1, form=None):
    """Softmax attention of each query over its window.

    The logit of query i for window pixel p is `q_i . (k_p + position_i - position_p) / sqrt(dim)`, the relative
    position term of ResNet-ACmix (as in the released code).

    Args:
      q: `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, of the same float type as k and v.
      k, v: `[B, H, W, heads, dim]`.
      position: `[H, W, dim]`, an embedding of each pixel's place, the same for all heads; None for no such term.
      window_size: odd; a window has `window_size ** 2` taps.
      stride: distance between queries.
      dilation: distance between the taps of a window.
      form: "reference" (the definition), "tiled" or "recomputed", equal in value and gradient; None picks the fastest.

    Returns:
      The shape of q, in the type of v. The softmax runs in float32 or wider.

    Raises:
      UserError: an even `window_size` (it has no centre pixel) or an unknown `form`.
    """
    if window_size % 2 == 0:
        raise UserError(f"window_size={window_size} has no centre pixel; use an odd number")
    form = form or fastest_form(*q.shape[1:3])
    check_choice("form of the attention", form, FORMS)
    return FORMS[form](q, k, v, position, window_size, stride, dilation)


def window_indices(size: int, window_size: int, stride: int, dilation: int) -> np.ndarray:
    """Input index of every window tap along one axis, `[ceil(size / stride), window_size]`, reflected at the ends."""
    margin = dilation * (window_size // 2)
    reflected = np.pad(np.arange(size), margin, mode="reflect")
    first = np.arange(0, size, stride)[:, None]
    return reflected[first + dilation * np.arange(window_size)]


def _reference(q, k, v, position, window_size, stride, dilation):
    """The definition: a copy of k, v and position for each tap of the window."""
    rows = window_indices(k.shape[1], window_size, stride, dilation)
    columns = window_indices(k.shape[2], window_size, stride, dilation)

    def unfold(x):  # [B, H, W, ...] -> [B, H_out, window, W_out, window, ...]
        return x[:, rows][:, :, :, columns]

    keys = unfold(k)
    if position is not None:
        here = position[None, ::stride, None, ::stride, None]  # [1, H_out, 1, W_out, 1, dim]
        keys = keys + (here - unfold(position[None]))[..., None, :]
    logits = dot("bijnd,bisjtnd->bijnst", q, keys) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(v.dtype)
    return jnp.einsum("bijnst,bisjtnd->bijnd", weights, unfold(v))


def _tiled(q, k, v, position, window_size, stride, dilation):
    """Two batched matrix products for each tile of queries and the patch of keys that its windows touch.

    Two identities make it small. `q_i . position_i` is the same for all taps of a window and drops out of the
    softmax, so the position term is attention over `k - position`. And attending to a reflected copy of a pixel is
    attending to that pixel once more: with `n` copies in the window its weight is `n exp(logit)`, so `log(n)` added
    to the logit replaces both the padding and the window's mask, and a patch never leaves the map.
    """
    q, k, v = _prepare(q, k, v, position)
    rows, columns = _cuts(k.shape[2:4], window_size, stride, dilation, (LARGEST_TILE, LARGEST_TILE))
    keys, values = (_patches(jnp.stack([x[:, :, s : s + rows.patch] for s in rows.starts]), columns) for x in (k, v))
    log_copies = _log_copies(rows, columns, jnp.promote_types(q.dtype, jnp.float32))
    logits = dot("...qd,...kd->...qk", _tiles(q, rows, columns), keys) + log_copies[:, None, None]
    out, _ = attend(logits, values)
    return _join(out, rows, columns, q.shape[1:3])


def _recomputed(q, k, v, position, window_size, stride, dilation):
    """Row after row of smaller tiles; the gradient computes the weights again instead of keeping them.

    So the weights of one row of tiles, which fit into a cache, are all that exists of them at any time.
    """
    q, k, v = _prepare(q, k, v, position)
    rows, columns = _recomputed_cuts(k.shape[2:4], window_size, stride, dilation)
    k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
    out = _scan(_tiles(q, rows, columns), k, v, window_size, stride, dilation)
    return _join(out, rows, columns, q.shape[1:3])


def _prepare(q, k, v, position):
    """Queries, scaled; keys with their position, and values, heads first `[B, heads, H, W, dim]`."""
    if position is not None:
        k = add_to_each(k, -jnp.broadcast_to(position[:, :, None], k.shape[1:]))
    return scale(q), k.transpose(0, 3, 1, 2, 4), v.transpose(0, 3, 1, 2, 4)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _scan(q, k, v, window_size, stride, dilation):
    """Attention of one row of tiles after the other: q `[tiles_y, B, heads, tiles_x, queries, dim]` to the same.

    k, v: `[B * heads, H, W, dim]`. With two axes for B and heads, XLA on CPUs would write them twice.
    """
    return _scan_forward(q, k, v, window_size, stride, dilation)[0]


def _scan_forward(q, k, v, window_size, stride, dilation):
    rows, columns = _recomputed_cuts(k.shape[1:3], window_size, stride, dilation)

    def row_of_tiles(_, xs):
        q, log_copies, start = xs
        keys, values = (_patches_from(start, x, rows.patch, columns, q.shape[0]) for x in (k, v))
        return None, attend(dot("...qd,...kd->...qk", q, keys) + log_copies, values)

    log_copies = _log_copies(rows, columns, jnp.promote_types(q.dtype, jnp.float32))
    _, (out, log_total) = lax.scan(row_of_tiles, None, (q, log_copies, jnp.asarray(rows.starts)))
    return out, (q, k, v, out, log_total)


def _scan_backward(window_size, stride, dilation, residuals, gradient):
    q, k, v, out, log_total = residuals
    rows, columns = _recomputed_cuts(k.shape[1:3], window_size, stride, dilation)
    wide = log_total.dtype

    def add(total, part, start):
        """Adds patches `[B, heads, tiles_x, dim, keys]` to the rows of total `[B, heads, dim, H, W]` from `start`."""
        part = part.reshape(*part.shape[:4], rows.patch, columns.patch)
        beyond = total.shape[4] - columns.patch
        part = sum(
            jnp.pad(part[:, :, i].astype(wide), ((0, 0), (0, 0), (0, 0), (0, 0), (s, beyond - s)))
            for i, s in enumerate(columns.starts)
        )
        part += lax.dynamic_slice_in_dim(total, start, rows.patch, axis=3)
        return lax.dynamic_update_slice_in_dim(total, part, start, axis=3)

    def row_of_tiles(totals, xs):
        q, q_transposed, out, log_total, gradient, gradient_transposed, log_copies, start = xs
        keys, values = (_patches_from(start, x, rows.patch, columns, q.shape[0]) for x in (k, v))
        weights = jnp.exp(dot("...qd,...kd->...qk", q, keys) + log_copies - log_total)
        mean = (gradient.astype(wide) * out.astype(wide)).sum(axis=-1, keepdims=True)
        of_logits = (weights * (dot("...qd,...kd->...qk", gradient, values) - mean)).astype(q.dtype)
        of_q = jnp.einsum("...qk,...kd->...qd", of_logits, keys)
        # XLA on CPUs would transpose the large operand of what sums over queries, if the result were [keys, dim].
        of_k = jnp.einsum("...dq,...qk->...dk", q_transposed, of_logits)
        of_v = jnp.einsum("...dq,...qk->...dk", gradient_transposed, weights.astype(q.dtype))
        return (add(totals[0], of_k, start), add(totals[1], of_v, start)), of_q

    def zeros(x):
        """Zeros that need x `[B]`: XLA on CPUs makes constants before the forward pass, and keeps and copies them."""
        none = (jnp.isnan(x) & (x > 0)).astype(wide)[:, None, None, None, None]
        return jnp.broadcast_to(none, (*q.shape[1:3], k.shape[3], *k.shape[1:3]))

    totals = zeros(gradient[0, :, 0, 0, 0, 0]), zeros(gradient[0, :, 0, 0, -1, -1])  # alike, they would be one array
    each = (
        q, q.swapaxes(-1, -2), out, log_total, gradient, gradient.swapaxes(-1, -2),
        _log_copies(rows, columns, wide), jnp.asarray(rows.starts),
    )  # fmt: skip
    totals, of_q = lax.scan(row_of_tiles, totals, each)
    of_k, of_v = (total.transpose(0, 1, 3, 4, 2).reshape(k.shape) for total in totals)
    return of_q, of_k.astype(k.dtype), of_v.astype(v.dtype)


_scan.defvjp(_scan_forward, _scan_backward)


class _Cut(NamedTuple):
    """How one axis is cut into tiles of queries."""

    starts: list[int]  # first index of the patch of keys that belongs to each tile
    patch: int  # its length
    log_copies: np.ndarray  # [tiles, tile, patch], how often each query sees each index of the patch, as a logarithm


def _cuts(size, window_size, stride, dilation, largest):
    """Both axes of a map of `size` (height, width); `largest` are the queries of a tile along each."""
    return tuple(_cut(n, window_size, stride, dilation, most) for n, most in zip(size, largest, strict=True))


def _recomputed_cuts(size, window_size, stride, dilation):
    """With a stride, fewer queries high: their windows overlap less, and the patch shall not hold much more."""
    return _cuts(size, window_size, stride, dilation, (max(1, RECOMPUTED_TILE // stride), RECOMPUTED_TILE))


def _cut(size, window_size, stride, dilation, largest):
    """Cuts an axis of `size` keys into tiles of at most `largest` queries."""
    windows = window_indices(size, window_size, stride, dilation)
    tiles = -(-len(windows) // largest)
    tile = -(-len(windows) // tiles)
    windows = windows[np.minimum(np.arange(tiles * tile), len(windows) - 1)].reshape(tiles, tile, window_size)
    patch = 1 + (windows.max((1, 2)) - windows.min((1, 2))).max()
    starts = np.minimum(windows.min((1, 2)), size - patch)
    copies = (windows[..., None] == (starts[:, None] + np.arange(patch))[:, None, None]).sum(2)
    return _Cut(starts.tolist(), int(patch), np.where(copies, np.log(np.maximum(copies, 1)), _NEVER))


def _log_copies(rows, columns, dtype):
    """Of whole tiles, `[tiles_y, tiles_x, queries, keys]`."""
    y, x = rows.log_copies, columns.log_copies
    both = y[:, None, :, None, :, None] + x[None, :, None, :, None, :]
    return jnp.asarray(both.reshape(*both.shape[:2], y.shape[1] * x.shape[1], -1), dtype)


def _patches(x, columns):
    """`[..., patch_y, W, dim]` to the patches of a row of tiles, `[..., tiles_x, patch_y * patch_x, dim]`."""
    slices = [x[..., start : start + columns.patch, :] for start in columns.starts]
    return jnp.stack(slices, axis=-4).reshape(*x.shape[:-3], len(slices), -1, x.shape[-1])


def _patches_from(start, x, height, columns, batch):
    """The same from rows `start` to `start + height` of x `[B * heads, H, W, dim]`, as one gather.

    On CPUs that is faster than slices (docs/performance.md). Only for `_scan`, whose gradient is written by hand: JAX's
    gradient of a gather is a scatter, which is slow.
    """
    *_, width, dim = x.shape
    rows = x.reshape(batch, -1, x.shape[1], width * dim)
    size = (*rows.shape[:2], height, columns.patch * dim)
    cut = jax.vmap(lambda column: lax.dynamic_slice(rows, (0, 0, start, column * dim), size), out_axes=2)
    return cut(jnp.asarray(columns.starts)).reshape(*rows.shape[:2], len(columns.starts), -1, dim)


def _tiles(x, rows, columns):
    """`[B, H, W, heads, dim]` to `[tiles_y, B, heads, tiles_x, queries, dim]`; zeros where a tile leaves the map."""
    (tiles_y, tile_y, _), (tiles_x, tile_x, _) = rows.log_copies.shape, columns.log_copies.shape
    batch, height, width, heads, dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, tiles_y * tile_y - height), (0, tiles_x * tile_x - width), (0, 0), (0, 0)))
    x = x.reshape(batch, tiles_y, tile_y, tiles_x, tile_x, heads, dim).transpose(1, 0, 5, 3, 2, 4, 6)
    return x.reshape(tiles_y, batch, heads, tiles_x, tile_y * tile_x, dim)


def _join(x, rows, columns, size):
    """The inverse of `_tiles`, for a map of `size` (height, width)."""
    (tiles_y, tile_y, _), (tiles_x, tile_x, _) = rows.log_copies.shape, columns.log_copies.shape
    _, batch, heads, _, _, dim = x.shape
    x = x.reshape(tiles_y, batch, heads, tiles_x, tile_y, tile_x, dim).transpose(1, 0, 4, 3, 5, 2, 6)
    return x.reshape(batch, tiles_y * tile_y, tiles_x * tile_x, heads, dim)[:, : size[0], : size[1]]


FORMS = {"reference": _reference, "tiled": _tiled, "recomputed": _recomputed}
