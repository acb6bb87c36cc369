"""Parameters handed out as arrays, and the initialisers of the released networks.

ACmix needs the kernels themselves, not their products with x: Stage II composes them with those of Stage I.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError, check_choice

Initializer = Callable[..., jax.Array]

torch_default: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's default for kernels of convolutions and linear layers: U(-1, 1) / sqrt(fan_in)."""

kaiming_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""`kaiming_normal_(mode="fan_out")`, which ResNet constructors give to every convolution."""

normal_02: Initializer = nn.initializers.normal(0.02)
"""`trunc_normal_(std=0.02)` of Swin and PVT: it cuts at -2 and 2, a hundred deviations away."""


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for a bias: U(-1, 1) / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class Weights(nn.Module):
    """A kernel of the given shape and a bias over its last axis, None without `use_bias`.

    `bias_init=None` is PyTorch's default for this kernel.
    """

    shape: Sequence[int]
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array | None]:
        kernel = self.param("kernel", self.kernel_init, tuple(self.shape), jnp.float32)
        if not self.use_bias:
            return kernel, None
        bias_init = self.bias_init or torch_bias(kernel.size // self.shape[-1])
        return kernel, self.param("bias", bias_init, (self.shape[-1],), jnp.float32)


PATHS = ("both", "attention", "convolution")
COMBINATIONS = ("learned", "convex", "fixed")


def path_weights(layer: nn.Module, paths: str, combination: str) -> tuple[jax.Array | float, jax.Array | float]:
    """Alpha and beta, the weights of attention and convolution, as parameters of `layer`; each starts at 0.5.

    Args:
      paths: with one path alone there are no parameters, and both weights are 1.
      combination: (paper, table 6) "learned", each by itself; "convex", alpha and 1 - alpha; "fixed" at 0.5 each.
        All keep both parameters, so that analysis, fold and convert need not know; with "convex" they move by equal
        and opposite steps.
    """
    check_choice("paths", paths, PATHS)
    check_choice("combination", combination, COMBINATIONS)
    if layer.has_variable("folded", "scale"):  # alpha times the scale of a BatchNorm; beta times it is in the kernel
        return layer.get_variable("folded", "scale"), 1.0
    if paths != "both":
        return 1.0, 1.0
    alpha, beta = (layer.param(name, nn.initializers.constant(0.5), (), jnp.float32) for name in ("alpha", "beta"))
    if combination == "convex":  # alpha and beta as long as they add up to 1, which the gradient keeps
        return (1 + alpha - beta) / 2, (1 + beta - alpha) / 2
    return (alpha, beta) if combination == "learned" else jax.lax.stop_gradient((alpha, beta))


def check_trainable(module: nn.Module) -> None:
    """Raises a UserError if `module` was given folded variables (weights/fold.py), some of which are constants."""
    if "folded" in module.variables:
        raise UserError("folded variables cannot be trained: some are constants; use the variables before folding")
