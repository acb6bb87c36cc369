"""Stage I of ACmix: one set of 1x1 projections, which both paths aggregate (paper, section 4.1)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.layers.weights import Initializer, Weights, torch_bias, torch_default
from acmix_jax.ops.subsample import subsample
from acmix_jax.ops.xla_cpu import add_to_each, linear


class Projected(NamedTuple):
    """The result of Stage I, with the heads apart.

    Attributes:
      q: `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, one query for each output pixel.
      k, v: `[B, H, W, heads, dim]`, or on the grid reduced by `reduction`.
      tokens: q, k and v of the tokens, `[B, T, heads, dim]` each; None without tokens.
      pieces: q, k and v joined along the heads, at every pixel, `[B, H, W, sum(heads), dim]`; with a reduction, q
        alone. None with a stride and no reduction, unless all pieces were asked for.
      reduced_pieces: k and v joined along the heads on the reduced grid; None without a reduction.
      kernel, bias: parameters of the projections, `[C, sum(heads) * dim]` and `[sum(heads) * dim]`.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    tokens: tuple[jax.Array, jax.Array, jax.Array] | None
    pieces: jax.Array | None
    reduced_pieces: jax.Array | None
    kernel: jax.Array
    bias: jax.Array


class Projection(nn.Module):
    """Three linear maps of each pixel, to q, k and v.

    Attributes:
      heads: number of heads of q, k and v.
      dim: channels of a head.
      stride: distance of the pixels that queries are made for.
      reduction: k and v are projected from a map this much smaller, made by a strided convolution and LayerNorm (PVT;
        backbones/pvt.py says how the convolution path uses them).
      kernel_init, bias_init: initialisers of the projections; bias_init=None is PyTorch's default.
      dtype: type of the computation; parameters stay in float32.
    """

    heads: tuple[int, int, int]
    dim: int
    stride: int = 1
    reduction: int = 1
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None, all_pieces: bool = False) -> Projected:
        """Projects x `[B, H, W, C]` and tokens `[B, T, C]`; `all_pieces` asks for the queries of skipped pixels too."""
        kernel, bias = Weights((x.shape[-1], sum(self._widths)), self._init_each, self.bias_init, name="qkv")()
        q_width = self._widths[0]
        q_stride = 1 if all_pieces else self.stride
        if self.reduction == 1 and q_stride == 1:
            joined, reduced = self._project(x, kernel, bias), None
            pieces, (q, k, v) = self._to_heads(joined), self._split_qkv(joined)
        else:
            kv_map = self._reduce(x) if self.reduction > 1 else x
            q = self._to_heads(self._project(subsample(x, q_stride), kernel[:, :q_width], bias[:q_width]))
            joined = self._project(kv_map, kernel[:, q_width:], bias[q_width:])
            k, v = map(self._to_heads, jnp.split(joined, [self._widths[1]], axis=-1))
            pieces, reduced = (q, self._to_heads(joined)) if self.reduction > 1 else (None, None)
        if q_stride != self.stride:
            q = subsample(q, self.stride)
        if tokens is not None:
            tokens = tuple(self._split_qkv(self._project(tokens.astype(self.dtype), kernel, bias)))
        return Projected(q, k, v, tokens, pieces, reduced, kernel, bias)

    @property
    def _widths(self):
        return tuple(heads * self.dim for heads in self.heads)

    def _init_each(self, key, shape, dtype=jnp.float32):
        """Draws q, k and v apart, so that the fan-out is that of one projection."""
        keys = jax.random.split(key, 3)
        parts = [self.kernel_init(k, (shape[0], width), dtype) for k, width in zip(keys, self._widths, strict=True)]
        return jnp.concatenate(parts, axis=1)

    def _project(self, x, kernel, bias):
        """`[..., C]` to `[..., sum of widths]`."""
        # One axis of pixels, since XLA on CPUs would write the projections' gradient twice for a bias added to a map.
        projected = linear(x, kernel.astype(self.dtype)).reshape(-1, kernel.shape[-1])
        return add_to_each(projected, bias).reshape(*x.shape[:-1], kernel.shape[-1])

    def _split_qkv(self, joined):
        # Before the heads are apart: TPUs would pad the few channels of a head to 128 lanes.
        return [self._to_heads(x) for x in jnp.split(joined, np.cumsum(self._widths)[:-1], axis=-1)]

    def _to_heads(self, x):
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.dim, self.dim)

    def _reduce(self, x):
        """`[B, H, W, C]` to `[B, H // reduction, W // reduction, C]`."""
        size = (self.reduction, self.reduction)
        bias_init = torch_bias(self.reduction**2 * x.shape[-1])
        conv = nn.Conv(
            x.shape[-1],
            size,
            size,
            padding="VALID",
            kernel_init=torch_default,
            bias_init=bias_init,
            dtype=self.dtype,
            name="reduce",
        )
        return nn.LayerNorm(1e-5, use_fast_variance=False, dtype=self.dtype, name="reduce_norm")(conv(x))
