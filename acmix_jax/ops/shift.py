"""ACmix's convolution path (paper section 4.3): mix 3N pieces into k^2 maps, then shift and sum them.

Conventions of this file. Stage I gives 3N pieces, all heads of q, then of k, then of v, as `[B, H, W, 3N, dim]`.
fc mixes them into k^2 taps `[B, H, W, dim, k^2]`, tap t = y * k + x. The shift kernel `[k, k, k^2, dim * N]`
(height, width, tap, output) turns the taps of each in-head channel into N outputs; output j * N + n belongs to
in-head channel j, the order of the released code. Zeros lie outside the map, output pixel (i, j) sits at input
pixel (stride * i, stride * j), and the k x k taps are `dilation` pixels apart.

"slices" is the definition: nine shifted copies of the taps, one product each. "group_conv" is the paper's figure 3,
"grouped" the same with fc composed into the kernel: on a CPU their backward takes seconds, because XLA differentiates
grouped convolutions slowly there. "multiply_shift" multiplies first and shifts the k^2 results. "dense" uses that the
path is linear in x: one ordinary convolution whose kernel is composed from all the parameters.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.errors import check_choice
from acmix_jax.ops.xla_cpu import add_to_each, materialize

TAP_FORMS = ("slices", "group_conv")  # mix the pieces into taps first
PIECE_FORMS = (*TAP_FORMS, "multiply_shift", "grouped")  # start from the pieces of Stage I
FORMS = (*PIECE_FORMS, "dense")  # dense starts from the layer's input
LARGEST_DENSE = {"cpu": 128}  # input features; beyond, multiply_shift is faster (docs/performance.md)


def fastest_form(in_features: int, backend: str | None = None) -> str:
    """The form to train with on a backend (None: the one in use), from the measurements in docs/performance.md.

    For each output pixel, dense costs k^2 multiply-adds per input feature and output; what multiply_shift costs does
    not grow with the input's features. Where nothing was measured it is dense, which matrix units like.
    """
    largest = LARGEST_DENSE.get(backend or jax.default_backend(), in_features)
    return "dense" if in_features <= largest else "multiply_shift"


def shift_kernel(kernel_size: int, outputs: int, dtype=jnp.float32) -> jax.Array:
    """Kernel that shifts tap t = y * k + x by (y - k // 2, x - k // 2) and sums the taps, `[k, k, k^2, outputs]`."""
    taps = kernel_size**2
    kernel = jnp.eye(taps, dtype=dtype).reshape(kernel_size, kernel_size, taps, 1)
    return jnp.tile(kernel, (1, 1, 1, outputs))


def shift_and_sum(taps, *, stride=1, dilation=1):
    """The paper's plain tensor shifts (figure 3a): what the shift kernel computes, without a kernel.

    Args:
      taps: `[B, H, W, dim, k^2]`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim]`: the sum over t of tap t, shifted.
    """
    kernel_size = round(taps.shape[-1] ** 0.5)
    shifted = _shifted(taps, kernel_size, stride, dilation)
    return sum(x[..., t] for t, x in enumerate(shifted))


def mix_pieces(pieces, fc, fc_bias=None):
    """fc, the 1x1 mixing of the 3N pieces: `[B, H, W, 3N, dim]` with `[3N, k^2]` to taps `[B, H, W, dim, k^2]`."""
    taps = jnp.einsum("bhwsd,st->bhwdt", pieces, fc)
    return taps if fc_bias is None else taps + fc_bias


def repeat_pixels(x, factor, height, width):
    """Nearest upsampling: each pixel of `[B, h, w, ...]` becomes a block; the last ones go on to `height`, `width`."""
    rows, columns = (
        np.minimum(np.arange(size) // factor, coarse - 1)
        for size, coarse in zip((height, width), x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]


def shift_taps(taps, kernel, *, stride=1, dilation=1, form="slices"):
    """Shift and sum with a learnable kernel, in one of TAP_FORMS.

    Args:
      taps: `[B, H, W, dim, k^2]`.
      kernel: `[k, k, k^2, dim * N]`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim * N]`.
    """
    batch, height, width, dim, count = taps.shape
    if form == "group_conv":
        return _convolve(taps.reshape(batch, height, width, dim * count), kernel, stride, dilation, groups=dim)
    kernel_size = kernel.shape[0]
    banks = kernel.reshape(kernel_size**2, count, dim, -1)  # [shift, tap, dim, N]
    shifted = _shifted(taps, kernel_size, stride, dilation)
    out = sum(jnp.einsum("bhwdt,tdn->bhwdn", x, bank) for x, bank in zip(shifted, banks, strict=True))
    return out.reshape(*out.shape[:3], -1)


def shift_convolution(pieces, fc, fc_bias, kernel, *, stride=1, dilation=1, form="slices"):
    """Mix the pieces, then shift and sum them with a learnable kernel.

    Args:
      pieces: `[B, H, W, S, dim]`.
      fc: `[S, k^2]`; fc_bias: `[k^2]` or None.
      kernel: `[k, k, k^2, dim * N]`.
      form: one of PIECE_FORMS; equal in value and gradient.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim * N]`.

    Raises:
      UserError: unknown `form`.
    """
    check_choice("form of the convolution", form, PIECE_FORMS)
    if form in TAP_FORMS:
        return shift_taps(mix_pieces(pieces, fc, fc_bias), kernel, stride=stride, dilation=dilation, form=form)
    kernel_size, _, count, _ = kernel.shape
    batch, height, width, _, dim = pieces.shape
    banks = kernel.reshape(kernel_size**2, count, dim, -1)  # [shift, tap, dim, N]
    if form == "multiply_shift":
        return _multiply_shift(pieces, fc, fc_bias, banks, stride, dilation)
    composed = jnp.einsum("st,ytdn->ysdn", fc, banks).reshape(kernel_size, kernel_size, fc.shape[0], -1)
    out = _convolve(pieces.swapaxes(3, 4).reshape(batch, height, width, -1), composed, stride, dilation, groups=dim)
    if fc_bias is None:
        return out
    bias_kernel = _bias_kernel(jnp.broadcast_to(fc_bias, (dim, count)), kernel)
    return _add_bias(out, bias_kernel, (height, width), stride, dilation)


def repeated_shift_convolution(pieces, fc, kernel, *, factor, size, stride=1, dilation=1):
    """`shift_convolution` of pieces on a coarser grid, each pixel of which is first repeated `factor` x `factor` times.

    Repeating, shifting and summing together are one product with a matrix of zeros and ones along each axis, so that
    the taps never exist at full size. A map whose size is no multiple of `factor` ends with more of its last pixels.

    Args:
      pieces: `[B, h, w, S, dim]`.
      fc: `[S, k^2]`.
      kernel: `[k, k, k^2, dim * N]`.
      size: (H, W) of the repeated map.
    """
    kernel_size, _, count, _ = kernel.shape
    batch, *coarse, _, dim = pieces.shape
    products = _products(pieces.transpose(4, 3, 0, 1, 2), fc, None, kernel.reshape(kernel_size**2, count, dim, -1))
    products = products.reshape(dim, kernel_size, kernel_size, -1, batch, *coarse)  # [dim, k, k, N, B, h, w]
    y, x = (
        jnp.asarray(_repeat_and_shift(*sizes, factor, kernel_size, stride, dilation), products.dtype)
        for sizes in zip(coarse, size, strict=True)
    )
    rows = jnp.einsum("dyxnbhw,yih->xwidnb", products, y)
    out = jnp.einsum("xjw,xwidnb->bijdn", x, rows)
    return out.reshape(*out.shape[:3], -1)


def _repeat_and_shift(coarse, size, factor, kernel_size, stride, dilation):
    """`[k, ceil(size / stride), coarse]`: one where an output pixel sees a coarse pixel through a tap."""
    matrix = np.zeros((kernel_size, -(-size // stride), coarse))
    for tap, i in np.ndindex(matrix.shape[:2]):
        place = stride * i + dilation * (tap - kernel_size // 2)
        if 0 <= place < size:
            matrix[tap, i, min(place // factor, coarse - 1)] = 1
    return matrix


def _products(pieces, fc, fc_bias, banks):
    """What each pixel of pieces `[dim, S, B, H, W]` gives to each of its neighbours, `[dim, shift, N, B, H, W]`."""
    (dim, count, *places), (shifts, taps, _, outputs) = pieces.shape, banks.shape
    pixels = pieces.reshape(dim, count, -1)  # [dim, S, pixels]
    if shifts * count * outputs <= taps * (count + shifts * outputs):  # multiply-adds of a pixel: fc composed, or first
        products = _matmul(jnp.einsum("st,ytdn->dyns", fc, banks).reshape(dim, -1, count), pixels)
        if fc_bias is not None:
            products += jnp.einsum("t,ytdn->dyn", fc_bias, banks).reshape(dim, -1, 1)
    else:
        mixed = _matmul(jnp.broadcast_to(fc.T, (dim, taps, count)), pixels)
        if fc_bias is not None:
            mixed += fc_bias[:, None]
        products = _matmul(banks.transpose(2, 0, 3, 1).reshape(dim, -1, taps), mixed)
    return products.reshape(dim, shifts, outputs, *places)


def _multiply_shift(pieces, fc, fc_bias, banks, stride, dilation):
    """With a stride, a pixel has only the neighbours at its own remainder: each of those sets is a map of its own."""
    kernel_size, (height, width) = round(banks.shape[0] ** 0.5), pieces.shape[1:3]
    size = (-(-height // stride), -(-width // stride))
    reach = [dilation * (i - kernel_size // 2) for i in range(kernel_size)]
    out = 0
    for (y, x), remainder in _by_remainder(pieces.transpose(4, 3, 0, 1, 2), stride).items():
        # Output i sees pixel stride * i + r through reach r, which is pixel i + (r - y) / stride of those from y on.
        places = {
            (i, j): ((y - reach[i]) // stride, (x - reach[j]) // stride)
            for i, j in np.ndindex(kernel_size, kernel_size)
            if (y - reach[i]) % stride == 0 == (x - reach[j]) % stride
        }
        if places:
            shifts = np.array([i * kernel_size + j for i, j in places])
            products = _products(remainder, fc, fc_bias, banks[shifts])
            out += _place_and_sum(products, tuple(places.values()), size, products.shape[4:])
    return materialize(out).transpose(2, 3, 4, 0, 1).reshape(*out.shape[2:], -1)


def _by_remainder(x, stride):
    """Pixels of `[..., H, W]` by what their indices leave when divided by the stride: {(y, x): `[..., h, w]`}."""
    # Strided slices would say the same, but their gradients are as many maps of full size, to be summed.
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


def _place(x, offset, size):
    """Moves the map `[..., h, w]` down and to the right by `offset`, into one of `size`, with zeros around it."""
    ends = [(start, to - length - start, 0) for start, to, length in zip(offset, size, x.shape[-2:], strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 2) + ends)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _place_and_sum(products, offsets, size, from_size):
    """Sums `[dim, shift, N, B, *from_size]` over the shifts, each at its offset in a map of `size`."""
    return sum(_place(products[:, t], offset, size) for t, offset in enumerate(offsets))


def _place_and_sum_backward(offsets, size, from_size, _, gradient):
    """The gradient moved back by each offset; JAX's own is as many arrays of the size of all products."""
    gradient = materialize(gradient)
    return (jnp.stack([_place(gradient, (-y, -x), from_size) for y, x in offsets], axis=1),)


_place_and_sum.defvjp(lambda *arguments: (_place_and_sum(*arguments), None), _place_and_sum_backward)


@jax.custom_vjp
def _matmul(kernel, pixels):
    """`[dim, m, k] @ [dim, k, pixels]`, whose gradient never transposes the large one as JAX's own would."""
    return kernel @ pixels


def _matmul_backward(residuals, gradient):
    kernel, pixels = residuals
    return jnp.einsum("dmp,dkp->dmk", gradient, pixels), jnp.einsum("dmk,dmp->dkp", kernel, gradient)


_matmul.defvjp(lambda kernel, pixels: (kernel @ pixels, (kernel, pixels)), _matmul_backward)


def compose(qkv, qkv_bias, fc, fc_bias, kernel):
    """The kernels of `composed_convolution`.

    Args:
      qkv: `[C_in, 3N, dim]`, the three 1x1 projections; qkv_bias: `[3N, dim]`.
      fc: `[3N, k^2]`; fc_bias: `[k^2]` or None.
      kernel: `[k, k, k^2, dim * N]`.

    Returns:
      Kernels `[k, k, C_in, dim * N]` for x and `[k, k, 1, dim * N]` for a map of ones.
    """
    grouped = kernel.reshape(*kernel.shape[:3], qkv.shape[-1], -1)  # [k, k, tap, dim, N]
    composed = jnp.einsum("csd,st,yxtdn->yxcdn", qkv, fc, grouped, optimize="optimal")
    bias = jnp.einsum("sd,st->dt", qkv_bias, fc)
    return composed.reshape(*composed.shape[:3], -1), _bias_kernel(bias if fc_bias is None else bias + fc_bias, kernel)


def composed_convolution(x, kernel, bias_kernel, *, stride=1, dilation=1):
    """One ordinary convolution of x `[B, H, W, C_in]` with what `compose` returns."""
    out = _convolve(x, kernel.astype(x.dtype), stride, dilation)
    return _add_bias(out, bias_kernel, x.shape[1:3], stride, dilation)


def _add_bias(out, bias_kernel, size, stride, dilation):
    """Biases stop at the border of the map, where the shift kernel sees zeros: they are a convolution of ones."""
    return add_to_each(out, _convolve(jnp.ones((1, *size, 1), bias_kernel.dtype), bias_kernel, stride, dilation)[0])


def _bias_kernel(bias, kernel):
    """What a bias of the taps `[dim, k^2]` gives to each output through each shift, `[k, k, 1, dim * N]`."""
    grouped = kernel.reshape(*kernel.shape[:3], bias.shape[0], -1)
    bias = jnp.einsum("dt,yxtdn->yxdn", bias, grouped)
    return bias.reshape(*bias.shape[:2], 1, -1)


def _shifted(taps, kernel_size, stride, dilation):
    """The map as seen from each of the k x k places: a list of k^2 slices `[B, H_out, W_out, dim, k^2]`."""
    height, width = taps.shape[1:3]
    margin = dilation * (kernel_size // 2)
    padded = jnp.pad(taps, ((0, 0), (margin, margin), (margin, margin), (0, 0), (0, 0)))
    offsets = [dilation * i for i in range(kernel_size)]
    return [padded[:, y : y + height : stride, x : x + width : stride] for y in offsets for x in offsets]


def _convolve(x, kernel, stride, dilation, groups=1):
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((margin, margin), (margin, margin)), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
