"""ACmix's convolution path (paper section 4.3): mix 3N pieces into k^2 maps, then shift and sum them.

Conventions of this file. Stage I gives 3N pieces, all heads of q, then of k, then of v, as `[B, H, W, 3N, dim]`.
fc mixes them into k^2 taps `[B, H, W, dim, k^2]`, tap t = y * k + x. The shift kernel `[k, k, k^2, dim * N]`
(height, width, tap, output) turns the taps of each in-head channel into N outputs; output j * N + n belongs to
in-head channel j, the order of the released code. Zeros lie outside the map, output pixel (i, j) sits at input
pixel (stride * i, stride * j), and the k x k taps are `dilation` pixels apart.

"slices" is the definition. "group_conv" is the paper's figure 3: its backward takes seconds on a CPU, because XLA
differentiates grouped convolutions slowly there. "dense" uses that the path is linear in x: one ordinary
convolution whose kernel is composed from all the parameters.
"""

import jax
import jax.numpy as jnp
from jax import lax

FORMS = ("dense", "slices", "group_conv")
LARGEST_DENSE = 256  # features; beyond, nine slices cost less than a dense kernel (docs/performance.md)


def fastest_form(in_features: int, features: int, reduction: int = 1) -> str:
    """The form to train with, for a layer of these widths; a coarser grid of k and v rules out the dense kernel."""
    return "dense" if max(in_features, features) <= LARGEST_DENSE and reduction == 1 else "slices"


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
    for axis, size in ((1, height), (2, width)):
        blocks = jnp.expand_dims(x, axis + 1)
        blocks = jnp.broadcast_to(blocks, (*blocks.shape[: axis + 1], factor, *blocks.shape[axis + 2 :]))
        x = blocks.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
        beyond = [(0, size - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)]
        x = jnp.pad(x, beyond, mode="edge")
    return x


def shift_convolution(taps, kernel, *, stride=1, dilation=1, form="slices"):
    """Shift and sum with a learnable kernel.

    Args:
      taps: `[B, H, W, dim, k^2]`.
      kernel: `[k, k, k^2, dim * N]`.
      form: "slices" or "group_conv"; equal in value and gradient.

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


def dense_convolution(x, qkv, qkv_bias, fc, fc_bias, kernel, *, stride=1, dilation=1):
    """The whole path from the layer's input as one convolution.

    Equal to `shift_convolution(mix_pieces(projections of x))`. The biases of Stage I and fc stop at the border of
    the map, where the shift kernel sees zeros; the constant map of ones carries them there exactly.

    Args:
      x: `[B, H, W, C_in]`.
      qkv: `[C_in, 3N, dim]`, the three 1x1 projections; qkv_bias: `[3N, dim]`.
      fc: `[3N, k^2]`; fc_bias: `[k^2]` or None.
      kernel: `[k, k, k^2, dim * N]`.
    """
    dim = qkv.shape[-1]
    grouped = kernel.reshape(*kernel.shape[:3], dim, -1)  # [k, k, tap, dim, N]
    composed = jnp.einsum("csd,st,yxtdn->yxcdn", qkv, fc, grouped, optimize="optimal")
    tap_bias = jnp.einsum("sd,st->dt", qkv_bias, fc)
    if fc_bias is not None:
        tap_bias += fc_bias
    bias = jnp.einsum("dt,yxtdn->yxdn", tap_bias, grouped)
    composed = composed.reshape(*composed.shape[:3], -1).astype(x.dtype)  # [k, k, C_in, dim * N]
    bias = bias.reshape(*bias.shape[:2], 1, -1).astype(x.dtype)  # [k, k, 1, dim * N]
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return _convolve(x, composed, stride, dilation) + _convolve(ones, bias, stride, dilation)


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
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
