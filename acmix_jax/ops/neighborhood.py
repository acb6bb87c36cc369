"""Local ("neighborhood") attention: every query attends to a k x k window of keys around it.

Conventions of this file. Maps are NHWC with the heads apart, `[B, H, W, heads, dim]`. The query of output pixel
(i, j) sits at input pixel (stride * i, stride * j), so the output is ceil(H / stride) high. Tap t of its window is
input row `stride * i + dilation * (t - window_size // 2)`; a row outside the map is reflected back into it (no
edge repeat), as often as needed. A map smaller than the window is therefore seen several times over, and a 1 x 1
map fills its window alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.errors import UserError, check_choice

LARGEST_TILE = 8  # queries per tile and axis
_NEVER = -1e30  # stands for log(0); finite, so that adding two of them gives no NaN


def position_map(height: int, width: int, dtype=jnp.float32) -> jax.Array:
    """Coordinates of every pixel, `[H, W, 2]`: first x, then y, each from -1 to 1 (the released `position`)."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1).astype(dtype)


def neighborhood_attention(q, k, v, position=None, *, window_size=7, stride=1, dilation=1, form="tiled"):
    """Softmax attention of each query over its window.

    The logit of query i for window pixel p is `q_i . (k_p + position_i - position_p) / sqrt(dim)`, the relative
    position term of ResNet-ACmix (as in the released code).

    Args:
      q, k, v: `[B, H, W, heads, dim]`, any float type, at input resolution also when `stride` > 1.
      position: `[H, W, dim]`, an embedding of each pixel's place, the same for all heads; None for no such term.
      window_size: odd; a window has `window_size ** 2` taps.
      stride: distance between queries.
      dilation: distance between the taps of a window.
      form: "tiled" (fast) or "reference" (the definition); equal in value and gradient.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), heads, dim]` in the type of v. The softmax runs in float32 or wider.

    Raises:
      UserError: an even `window_size` (it has no centre pixel) or an unknown `form`.
    """
    if window_size % 2 == 0:
        raise UserError(f"window_size={window_size} has no centre pixel; use an odd number")
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
    rows = window_indices(q.shape[1], window_size, stride, dilation)
    columns = window_indices(q.shape[2], window_size, stride, dilation)

    def unfold(x):  # [B, H, W, ...] -> [B, H_out, window, W_out, window, ...]
        return x[:, rows][:, :, :, columns]

    keys = unfold(k)
    if position is not None:
        here = position[None, ::stride, None, ::stride, None]  # [1, H_out, 1, W_out, 1, dim]
        keys = keys + (here - unfold(position[None]))[..., None, :]
    logits = _dot("bijnd,bisjtnd->bijnst", q[:, ::stride, ::stride], keys) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(v.dtype)
    return jnp.einsum("bijnst,bisjtnd->bijnd", weights, unfold(v))


def _tiled(q, k, v, position, window_size, stride, dilation):
    """Two batched matrix products for each tile of queries and the patch of keys that its windows touch.

    Two identities make it small. `q_i . position_i` is the same for all taps of a window and drops out of the
    softmax, so the position term is attention over `k - position`. And attending to a reflected copy of a pixel is
    attending to that pixel once more: with `n` copies in the window its weight is `n exp(logit)`, so `log(n)` added
    to the logit replaces both the padding and the window's mask, and a patch never leaves the map.
    """
    if position is not None:
        k = k - position[:, :, None]
    starts_y, patch_y, copies_y = _cut(q.shape[1], window_size, stride, dilation)
    starts_x, patch_x, copies_x = _cut(q.shape[2], window_size, stride, dilation)
    (tiles_y, tile_y, _), (tiles_x, tile_x, _) = copies_y.shape, copies_x.shape
    batch, _, _, heads, dim = q.shape

    def patches(x):  # [B, H, W, heads, dim] -> [B, tiles_y, tiles_x, heads, patch_y * patch_x, dim]
        x = jnp.stack([x[:, s : s + patch_y] for s in starts_y], axis=1)
        x = jnp.stack([x[:, :, :, s : s + patch_x] for s in starts_x], axis=2)
        x = x.transpose(0, 1, 2, 5, 3, 4, 6)
        return x.reshape(batch, tiles_y, tiles_x, heads, patch_y * patch_x, x.shape[-1])

    q = q[:, ::stride, ::stride]
    height, width = q.shape[1:3]
    q = jnp.pad(q, ((0, 0), (0, tiles_y * tile_y - height), (0, tiles_x * tile_x - width), (0, 0), (0, 0)))
    q = q.reshape(batch, tiles_y, tile_y, tiles_x, tile_x, heads, dim).transpose(0, 1, 3, 5, 2, 4, 6)
    q = q.reshape(batch, tiles_y, tiles_x, heads, tile_y * tile_x, dim) * jnp.asarray(dim**-0.5, q.dtype)

    logits = _dot("byxnqd,byxnkd->byxnqk", q, patches(k))
    log_copies = jnp.asarray(
        copies_y[:, None, :, None, :, None] + copies_x[None, :, None, :, None, :], logits.dtype
    )  # [tiles_y, tiles_x, tile_y, tile_x, patch_y, patch_x]
    logits += log_copies.reshape(tiles_y, tiles_x, 1, tile_y * tile_x, patch_y * patch_x)
    # Softmax with the division after the product, where the array is smaller; the shift by the maximum cancels.
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(axis=-1, keepdims=True))).astype(v.dtype)
    out = jnp.einsum("byxnqk,byxnkd->byxnqd", weights, patches(v), preferred_element_type=logits.dtype)
    out = (out / weights.sum(axis=-1, keepdims=True, dtype=logits.dtype)).astype(v.dtype)
    out = out.reshape(batch, tiles_y, tiles_x, heads, tile_y, tile_x, v.shape[-1]).transpose(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(batch, tiles_y * tile_y, tiles_x * tile_x, heads, v.shape[-1])[:, :height, :width]


def _cut(size, window_size, stride, dilation):
    """Cuts one axis into tiles of queries: (first input index of each tile's patch, length of a patch, log copies).

    Log copies, `[tiles, tile, patch]`: how often each query of a tile sees each index of the patch, as a logarithm.
    """
    windows = window_indices(size, window_size, stride, dilation)
    tiles = -(-len(windows) // LARGEST_TILE)
    tile = -(-len(windows) // tiles)
    windows = windows[np.minimum(np.arange(tiles * tile), len(windows) - 1)].reshape(tiles, tile, window_size)
    patch = 1 + (windows.max((1, 2)) - windows.min((1, 2))).max()
    starts = np.minimum(windows.min((1, 2)), size - patch)
    copies = (windows[..., None] == (starts[:, None] + np.arange(patch))[:, None, None]).sum(2)
    return starts.tolist(), int(patch), np.where(copies, np.log(np.maximum(copies, 1)), _NEVER)


def _dot(subscripts, q, k):
    """The product of the logits, accumulated in float32 or wider."""
    return jnp.einsum(subscripts, q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))


FORMS = {"reference": _reference, "tiled": _tiled}
