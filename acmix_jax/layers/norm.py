"""BatchNorm as ResNet, SAN and the heads of dense tasks use it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.weights import kaiming_fan_out
from acmix_jax.ops.xla_cpu import dot_general


class BatchNorm(nn.BatchNorm):
    """BatchNorm with PyTorch's defaults; after `acmix_jax.fold` only a bias, as its scale is in the layer before it.

    Takes `use_running_average`, dtype and name; `[..., C]` to the same.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.has_variable("folded", "bias"):
            return super().__call__(x)
        return x + self.get_variable("folded", "bias").astype(x.dtype)


class ConvNormRelu(nn.Module):
    """Convolution without a bias, BatchNorm and ReLU, `[B, H, W, C]` to `[B, H, W, features]` (mmcv's ConvModule).

    Attributes:
      features: channels of the result.
      size: of the kernel, 3 or 1.
      dtype: type of the computation; parameters and statistics stay in float32.
    """

    features: int
    size: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        options = {"use_bias": False, "kernel_init": kaiming_fan_out, "dtype": self.dtype, "name": "conv"}
        if self.size == 1:
            x = nn.Dense(self.features, dot_general=dot_general, **options)(x)
        else:
            x = nn.Conv(self.features, (self.size, self.size), padding=self.size // 2, **options)(x)
        return nn.relu(BatchNorm(use_running_average=not train, dtype=self.dtype, name="norm")(x))
