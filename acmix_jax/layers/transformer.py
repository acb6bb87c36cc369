"""Parts of the transformer backbones, Swin and PVT."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.layers.weights import normal_02, torch_bias, torch_default
from acmix_jax.ops.xla_cpu import dot_general

layer_norm = partial(nn.LayerNorm, use_fast_variance=False)
"""LayerNorm with PyTorch's accurate variance; takes epsilon, dtype and name."""


class Mlp(nn.Module):
    """Linear, exact GELU, linear, with dropout after each; `[..., C]` to `[..., C]`."""

    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        dense = partial(nn.Dense, kernel_init=normal_02, dtype=self.dtype, dot_general=dot_general)
        hidden = nn.gelu(dense(self.hidden, name="fc1")(x), approximate=False)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return nn.Dropout(self.dropout, deterministic=not train)(dense(x.shape[-1], name="fc2")(hidden))


def drop_path(x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Stochastic depth: drops a residual branch `[B, ...]` of whole images (Huang et al., ECCV 2016)."""
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, x.ndim)), deterministic=not train)(x)


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates from 0 in the first block to `rate` in the last one, by stage."""
    rates = np.linspace(0, rate, sum(depths)).tolist()
    ends = np.cumsum(depths)
    return [rates[end - depth : end] for end, depth in zip(ends, depths, strict=True)]


def patch_conv(features: int, size: int, dtype: Any, channels: int, name: str) -> nn.Module:
    """The convolution that cuts `channels` channels into patches of size x size, with PyTorch's initialisation."""
    return nn.Conv(
        features, (size, size), size, padding="VALID", kernel_init=torch_default,
        bias_init=torch_bias(size * size * channels), dtype=dtype, name=name,
    )  # fmt: skip
