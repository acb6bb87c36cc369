"""The convolution path with its order turned round: products at each pixel first, then the k^2 shifts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.ops.xla_cpu import Multilinear, batched_matmul, materialize


def multiply_and_shift(
    pieces: jax.Array, fc: jax.Array, fc_bias: jax.Array | None, kernel: jax.Array, stride: int, dilation: int
) -> jax.Array:
    """`shift_convolution` in the form "multiply_shift".

    With a stride, an output sees only the pixels of one remainder (modulo the stride) through each tap. The pixels of
    each remainder are a map of their own.
    """
    kernel_size, (height, width) = kernel.shape[0], pieces.shape[1:3]
    banks = _banks(kernel, pieces.shape[-1])
    size = (-(-height // stride), -(-width // stride))
    reach = [dilation * (i - kernel_size // 2) for i in range(kernel_size)]
    out = 0
    for (y, x), remainder in _by_remainder(pieces.transpose(4, 3, 0, 1, 2), stride).items():
        # Output i sees pixel stride * i + r through reach r, number i + (r - y) / stride of those of remainder y.
        offsets = {
            (i, j): ((y - reach[i]) // stride, (x - reach[j]) // stride)
            for i, j in np.ndindex(kernel_size, kernel_size)
            if (y - reach[i]) % stride == 0 == (x - reach[j]) % stride
        }
        if offsets:
            shifts = np.array([i * kernel_size + j for i, j in offsets])
            products = _products(remainder, fc, fc_bias, banks[shifts])
            out += _move_and_sum(products, offsets=tuple(offsets.values()), size=size, from_size=products.shape[4:])
    return lax.collapse(materialize(out).transpose(2, 3, 4, 0, 1), 3)


def repeated_shift_convolution(
    pieces: jax.Array,
    fc: jax.Array,
    kernel: jax.Array,
    *,
    factor: int,
    size: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """`shift_convolution` of `repeat_pixels(pieces, factor, *size)`, for pieces on a coarser grid.

    Repeating, shifting and summing together are one product with a matrix of zeros and ones along each axis, so that
    the taps never exist at full size.

    Args:
      pieces: `[B, h, w, S, dim]`.
      fc: `[S, k^2]`.
      kernel: `[k, k, k^2, dim * N]`.
      factor: ratio of the two grids.
      size: (H, W) of the fine grid.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim * N]`.
    """
    kernel_size = kernel.shape[0]
    batch, *coarse, _, dim = pieces.shape
    products = _products(pieces.transpose(4, 3, 0, 1, 2), fc, None, _banks(kernel, dim))
    outputs = kernel.shape[-1] // dim
    products = products.reshape(dim, kernel_size, kernel_size, outputs, batch, *coarse)  # [dim, k, k, N, B, h, w]
    y, x = (
        jnp.asarray(_repeat_and_shift(*sizes, factor, kernel_size, stride, dilation), products.dtype)
        for sizes in zip(coarse, size, strict=True)
    )
    rows = jnp.einsum("dyxnbhw,yih->xwidnb", products, y)
    out = jnp.einsum("xjw,xwidnb->bijdn", x, rows)
    return lax.collapse(out, 3)


def _repeat_and_shift(coarse, size, factor, kernel_size, stride, dilation):
    """`[k, ceil(size / stride), coarse]`: one where an output pixel sees a coarse pixel through a tap."""
    matrix = np.zeros((kernel_size, -(-size // stride), coarse))
    for tap, i in np.ndindex(matrix.shape[:2]):
        pixel = stride * i + dilation * (tap - kernel_size // 2)
        if 0 <= pixel < size:
            matrix[tap, i, min(pixel // factor, coarse - 1)] = 1
    return matrix


def _banks(kernel, dim):
    kernel_size, _, taps, _ = kernel.shape
    return kernel.reshape(kernel_size**2, taps, dim, -1)  # [shift, tap, dim, N]


def _products(pieces, fc, fc_bias, banks):
    """Contribution of each pixel of pieces `[dim, S, B, H, W]` to each neighbour, `[dim, shift, N, B, H, W]`."""
    (dim, count, *batch_and_size), (shifts, taps, _, outputs) = pieces.shape, banks.shape
    pixels = lax.collapse(pieces, 2)  # [dim, S, pixels]
    # Compose fc with the kernel or apply it first, whichever takes fewer multiply-adds per pixel.
    if shifts * count * outputs <= taps * (count + shifts * outputs):
        products = batched_matmul(jnp.einsum("st,ytdn->dyns", fc, banks).reshape(dim, -1, count), pixels)
        if fc_bias is not None:
            products += jnp.einsum("t,ytdn->dyn", fc_bias, banks).reshape(dim, -1, 1)
    else:
        mixed = batched_matmul(jnp.broadcast_to(fc.T, (dim, taps, count)), pixels)
        if fc_bias is not None:
            mixed += fc_bias[:, None]
        products = batched_matmul(banks.transpose(2, 0, 3, 1).reshape(dim, -1, taps), mixed)
    return products.reshape(dim, shifts, outputs, *batch_and_size)


def _by_remainder(x, stride):
    """Pixels of `[..., H, W]` by the remainders of their indices modulo the stride: {(y, x): `[..., h, w]`}."""
    # Strided slices would give the same, but the gradient of each is a map of full size, and all are summed.
    if stride == 1:
        return {(0, 0): x}
    *rest, height, width = x.shape
    x = jnp.pad(x, [(0, 0)] * len(rest) + [(0, -height % stride), (0, -width % stride)])
    x = x.reshape(*rest, -(-height // stride), stride, -(-width // stride), stride)
    return {
        (i, j): part.squeeze((-3, -1))[..., : -(-(height - i) // stride), : -(-(width - j) // stride)]
        for i, row in enumerate(jnp.split(x, stride, axis=-3)[:height])
        for j, part in enumerate(jnp.split(row, stride, axis=-1)[:width])
    }


def _move(x, offset, size):
    """Moves the map `[..., h, w]` down and right by `offset`, into a map of `size` with zeros elsewhere."""
    padding = [(start, to - length - start, 0) for start, to, length in zip(offset, size, x.shape[-2:], strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 2) + padding)


def _sum_moved(products, offsets, size, from_size):
    return sum(_move(products[:, t], offset, size) for t, offset in enumerate(offsets))


def _move_back(gradient, offsets, size, from_size):
    gradient = materialize(gradient)
    return jnp.stack([_move(gradient, (-y, -x), from_size) for y, x in offsets], axis=1)


_move_and_sum = Multilinear(_sum_moved, _move_back)
"""Sums `[dim, shift, N, B, *from_size]` over the shifts, each at its offset in a map of `size`.

The gradient is moved back by each offset. JAX's own gradient is as many arrays of the size of all products.
"""
