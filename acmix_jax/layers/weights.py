"""Parameters of a linear map, handed out as arrays, and the initialisers that the released networks give them.

ACmix needs the arrays themselves, not the product: its second stage composes the kernels of its first.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]

torch_default: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""What PyTorch gives the kernel of a convolution or linear layer: U(-1, 1) / sqrt(fan_in)."""

kaiming_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""`kaiming_normal_(mode="fan_out")`, which ResNet constructors give to every convolution."""

normal_02: Initializer = nn.initializers.normal(0.02)
"""`trunc_normal_(std=0.02)` of Swin and PVT: it cuts at -2 and 2, a hundred deviations away."""


def torch_bias(fan_in: int) -> Initializer:
    """What PyTorch gives a bias: U(-1, 1) / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class Weights(nn.Module):
    """A kernel of the given shape and, with `use_bias`, a bias over its last axis (else None).

    `bias_init` None is PyTorch's default for this kernel.
    """

    shape: Sequence[int]
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array | None]:
        kernel = self.param("kernel", self.kernel_init, tuple(self.shape))
        if not self.use_bias:
            return kernel, None
        bias_init = self.bias_init or torch_bias(kernel.size // self.shape[-1])
        return kernel, self.param("bias", bias_init, (self.shape[-1],))
