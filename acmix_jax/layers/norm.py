"""BatchNorm as ResNet and SAN use it."""

import flax.linen as nn
import jax


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
