"""Local ("neighborhood") attention: every query attends to a k x k window of keys around it.

Conventions of this package. Maps are NHWC with separate heads, `[B, H, W, heads, dim]`. The query of output pixel
(i, j) is centred on input pixel (stride * i, stride * j), so the output is ceil(H / stride) high. Tap t of its window
is input row `stride * i + dilation * (t - window_size // 2)`. Rows outside the map are reflected (no edge repeat), as
often as needed: a map smaller than the window is seen several times over, and a 1 x 1 map fills the window by itself.

The forms are equal in value and gradient. "reference" is the definition. "tiled" computes matrix products of tiles of
queries with patches of keys. "recomputed" is flash-style: smaller tiles, one row of them after the other, whose weights
are rematerialised in the backward pass. "kernel" is flash-style, too, as fused Pallas kernels on NVIDIA
GPUs and TPUs; elsewhere it is "tiled". The last two have a backward pass written by hand (`ops/own_gradient.py`).
`ops/choice.py` picks "tiled" or "recomputed", and "kernel" for runs on GPUs.
"""

import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError, check_choice
from acmix_jax.ops.choice import attention_form, by_backend
from acmix_jax.ops.neighborhood.kernel import kernel_attention
from acmix_jax.ops.neighborhood.recomputed import recomputed_attention
from acmix_jax.ops.neighborhood.reference import reference_attention, window_indices
from acmix_jax.ops.neighborhood.tiled import tiled_attention

__all__ = ["FORMS", "neighborhood_attention", "position_map", "window_indices"]

FORMS = {
    "reference": reference_attention,
    "tiled": tiled_attention,
    "recomputed": recomputed_attention,
    "kernel": kernel_attention,
}


def neighborhood_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    position: jax.Array | None = None,
    *,
    window_size: int = 7,
    stride: int = 1,
    dilation: int = 1,
    form: str | None = None,
) -> jax.Array:
    """Softmax attention of each query over its window.

    The logit of query i for window pixel p is `q_i . (k_p + position_i - position_p) / sqrt(dim)`, with the relative
    position term of ResNet-ACmix (as in the released code).

    Args:
      q: `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, of the same float type as k and v.
      k, v: `[B, H, W, heads, dim]`.
      position: `[H, W, dim]`, position embedding of each pixel, shared by the heads; None for no position term.
      window_size: odd; a window has `window_size ** 2` taps.
      stride: distance between queries.
      dilation: distance between the taps of a window.
      form: "reference", "tiled", "recomputed" or "kernel"; None for the default of `choice.attention_form`.

    Returns:
      The shape of q, in the type of v. The softmax runs in float32 or wider.

    Raises:
      UserError: even `window_size` (it has no centre pixel), or unknown `form`.
    """
    if window_size % 2 == 0:
        raise UserError(f"window_size={window_size} has no centre pixel; use an odd number")
    if form is not None:
        check_choice("form of attention", form, FORMS)
    height, width = q.shape[1:3]

    def attend(form, q, k, v, position):
        return FORMS[form](q, k, v, position, window_size, stride, dilation)

    return by_backend(lambda backend: form or attention_form(height, width, backend), attend, q, k, v, position)


def position_map(height: int, width: int, dtype=jnp.float32, size: int | None = None) -> jax.Array:
    """Coordinates of every pixel, `[H, W, 2]`: first x, then y, each from -1 to 1 (the released `position`).

    With `size`, neighbours are as far apart on any map as they are on one of size x size pixels, 2 / (size - 1), and
    the centre of the map is at 0. What attention uses, coordinate differences, then does not depend on the map's size.
    """

    def along(pixels):
        end = 1 if size is None else (pixels - 1) / max(size - 1, 1)
        return jnp.linspace(-end, end, pixels)

    y, x = jnp.meshgrid(along(height), along(width), indexing="ij")
    return jnp.stack([x, y], axis=-1).astype(dtype)
