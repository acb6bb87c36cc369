"""Maps resized as by PyTorch's `interpolate` without aligned corners."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.ops.xla_cpu import materialize


def nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`[B, H, W, C]` to `[B, *size, C]`; row i of the result is row `floor(i * H / size[0])`, columns alike."""
    for axis, new in enumerate(size, start=1):
        factor, rest = divmod(new, x.shape[axis])
        rows = np.arange(new) * x.shape[axis] // new
        x = jnp.take(x, rows, axis) if rest else jnp.repeat(x, factor, axis)
    return x


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`[B, H, W, C]` to `[B, *size, C]`, between the centres of pixels, in any float type.

    Sizes that are multiples take sums of neighbours, others a product with a matrix (`jax.image.resize`), which is
    slower and counts as multiply-adds.
    """
    for axis, new in enumerate(size, start=1):
        if new % x.shape[axis] == 0:
            x = _enlarge(x, new // x.shape[axis], axis)
        else:
            shape = (*x.shape[:axis], new, *x.shape[axis + 1 :])
            x = jax.image.resize(x, shape, "bilinear", antialias=False)
    return x


def _enlarge(x, factor, axis):
    """Makes `factor` pixels of each, between its centre and that of the pixel before or after it."""
    if factor == 1 or x.shape[axis] == 1:
        return jnp.repeat(x, factor, axis)
    last = x.shape[axis] - 1
    before = jnp.concatenate([lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, last, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(x, 1, None, axis=axis), lax.slice_in_dim(x, last, None, axis=axis)], axis)
    offsets = [(i + 0.5) / factor - 0.5 for i in range(factor)]  # of the new centres from the old one
    pixels = [(1 - abs(offset)) * x + abs(offset) * (before if offset < 0 else after) for offset in offsets]
    return materialize(lax.collapse(jnp.stack(pixels, axis + 1), axis, axis + 2))


def bilinear_onto(x: jax.Array, size: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Resizes a map to a size that is known at run time only, in the upper left corner of a canvas.

    Args:
      x: `[H, W, C]`.
      size: (height, width) of the result, int `[2]`, at most the canvas.
      canvas: (height, width) of the output.

    Returns:
      `[*canvas, C]` in the type of x; beyond `size`, the last row and column go on.
    """
    rows, columns = (_weights(x.shape[axis], size[axis], canvas[axis], x.dtype) for axis in (0, 1))
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, x, precision="highest")


def _weights(source, target, length, dtype):
    """The matrix `[length, source]` that resizes an axis from `source` to `target` pixels."""
    centres = (jnp.arange(length) + 0.5) * (source / target) - 0.5
    centres = jnp.clip(centres, 0, source - 1)
    return jnp.maximum(0, 1 - jnp.abs(centres[:, None] - jnp.arange(source))).astype(dtype)
