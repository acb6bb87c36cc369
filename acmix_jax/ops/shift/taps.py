"""The convolution path step by step, as in the paper: fc makes the taps, a kernel shifts and sums them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TAP_FORMS = ("slices", "group_conv")


def shift_kernel(kernel_size: int, outputs: int, dtype=jnp.float32) -> jax.Array:
    """Kernel that shifts tap t = y * k + x by (y - k // 2, x - k // 2) and sums the taps, `[k, k, k^2, outputs]`."""
    taps = kernel_size**2
    kernel = jnp.eye(taps, dtype=dtype).reshape(kernel_size, kernel_size, taps, 1)
    return jnp.tile(kernel, (1, 1, 1, outputs))


def mix_pieces(pieces: jax.Array, fc: jax.Array, fc_bias: jax.Array | None = None) -> jax.Array:
    """Applies fc: pieces `[B, H, W, S, dim]` with `[S, k^2]` to taps `[B, H, W, dim, k^2]`."""
    taps = jnp.einsum("bhwsd,st->bhwdt", pieces, fc)
    return taps if fc_bias is None else taps + fc_bias


def repeat_pixels(x: jax.Array, factor: int, height: int, width: int) -> jax.Array:
    """Nearest upsampling of `[B, h, w, ...]`: pixels become blocks, the last of which extend to `height`, `width`."""
    rows, columns = (
        np.minimum(np.arange(size) // factor, coarse - 1)
        for size, coarse in zip((height, width), x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]


def shift_and_sum(taps: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Shifts and sums taps without a kernel (figure 3a of the paper); equal to `shift_kernel`.

    Args:
      taps: `[B, H, W, dim, k^2]`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim]`.
    """
    kernel_size = round(taps.shape[-1] ** 0.5)
    shifted = _shifted(taps, kernel_size, stride, dilation)
    return sum(x[..., t] for t, x in enumerate(shifted))


def shift_taps(
    taps: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, form: str = "slices"
) -> jax.Array:
    """Shifts and sums taps with a learnable kernel.

    Args:
      taps: `[B, H, W, dim, k^2]`.
      kernel: `[k, k, k^2, dim * N]`.
      form: one of TAP_FORMS.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim * N]`.
    """
    batch, height, width, dim, count = taps.shape
    if form == "group_conv":
        return convolve(taps.reshape(batch, height, width, dim * count), kernel, stride, dilation, groups=dim)
    kernel_size = kernel.shape[0]
    banks = kernel.reshape(kernel_size**2, count, dim, -1)  # [shift, tap, dim, N]
    shifted = _shifted(taps, kernel_size, stride, dilation)
    out = sum(jnp.einsum("bhwdt,tdn->bhwdn", x, bank) for x, bank in zip(shifted, banks, strict=True))
    return lax.collapse(out, 3)


def _shifted(taps, kernel_size, stride, dilation):
    """The map as each of the k x k kernel positions sees it: a list of k^2 slices `[B, H_out, W_out, dim, k^2]`."""
    height, width = taps.shape[1:3]
    margin = dilation * (kernel_size // 2)
    padded = jnp.pad(taps, ((0, 0), (margin, margin), (margin, margin), (0, 0), (0, 0)))
    offsets = [dilation * i for i in range(kernel_size)]
    return [padded[:, y : y + height : stride, x : x + width : stride] for y in offsets for x in offsets]


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, groups: int = 1) -> jax.Array:
    """Convolution of x `[B, H, W, C_in]` with `[k, k, C_in / groups, C_out]` and zeros outside the map."""
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((margin, margin), (margin, margin)), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
