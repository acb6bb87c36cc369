"""The convolution path as one ordinary convolution; its kernel is composed from the projections, fc and the shifts."""

import jax
import jax.numpy as jnp

from acmix_jax.ops.shift.taps import convolve
from acmix_jax.ops.xla_cpu import add_to_each


def compose(
    qkv: jax.Array, qkv_bias: jax.Array, fc: jax.Array, fc_bias: jax.Array | None, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Kernels of `composed_convolution`.

    Args:
      qkv: `[C_in, 3N, dim]`, the three 1x1 projections; qkv_bias: `[3N, dim]`.
      fc: `[3N, k^2]`; fc_bias: `[k^2]` or None.
      kernel: `[k, k, k^2, dim * N]`.

    Returns:
      Kernels `[k, k, C_in, dim * N]` for x and `[k, k, 1, dim * N]` for a map of ones, which carries the biases.
    """
    banks = kernel.reshape(*kernel.shape[:3], qkv.shape[-1], -1)  # [k, k, tap, dim, N]
    composed = jnp.einsum("csd,st,yxtdn->yxcdn", qkv, fc, banks, optimize="optimal")
    bias = jnp.einsum("sd,st->dt", qkv_bias, fc)
    return composed.reshape(*composed.shape[:3], -1), _bias_kernel(bias if fc_bias is None else bias + fc_bias, kernel)


def composed_convolution(
    x: jax.Array, kernel: jax.Array, bias_kernel: jax.Array, *, stride: int = 1, dilation: int = 1
) -> jax.Array:
    """Convolves x `[B, H, W, C_in]` with the kernels of `compose`.

    Biases of the taps end at the border of the map, outside of which the shifts see zeros. So they are a convolution of
    a map of ones.
    """
    out = convolve(x, kernel.astype(x.dtype), stride, dilation)
    ones = jnp.ones((1, *x.shape[1:3], 1), bias_kernel.dtype)
    return add_to_each(out, convolve(ones, bias_kernel, stride, dilation)[0])


def _bias_kernel(bias, kernel):
    """Contribution of a bias of the taps `[dim, k^2]` to each output through each shift, `[k, k, 1, dim * N]`."""
    banks = kernel.reshape(*kernel.shape[:3], bias.shape[0], -1)  # [k, k, tap, dim, N]
    bias = jnp.einsum("dt,yxtdn->yxdn", bias, banks)
    return bias.reshape(*bias.shape[:2], 1, -1)
