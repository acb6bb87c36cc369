"""The ACmix operator (Pan et al., CVPR 2022, section 4): one projection, aggregated twice."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError, check_choice
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.layers.weights import Initializer, Weights, torch_default
from acmix_jax.ops import shift

PATHS = ("both", "attention", "convolution")


class ACmix(nn.Module):
    """`alpha * attention + beta * convolution` over the same projections q, k and v.

    Stage I projects x three times (1x1). Stage II aggregates the result as attention, and as a convolution: fc mixes
    the 3 * num_heads pieces into kernel_size**2 maps, which are shifted and summed. A drop-in for a 3x3 convolution:
    `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`.

    Where the released PyTorch code crashes, this layer means: on odd sizes with a stride, output pixel (i, j) is
    centred on input pixel (stride * i, stride * j), in both paths; `dilation` spreads the attention window and the
    shifts alike, as in a dilated convolution; `kernel_size` 1, 5, ... has that many shifts an axis and zero padding
    that keeps the size; a map smaller than the window is reflected as often as needed (ops/neighborhood.py);
    with `dtype=bfloat16` the parameters and the softmax stay in float32.

    Attributes:
      features: channels of the output, divisible by `num_heads`.
      num_heads: heads of the attention, N in the paper.
      attention: the attention kind: a module class or partial that takes stride, dilation, dtype, kernel_init, name.
      kernel_size: width of the convolution, odd (k_c in the paper).
      paths: "both", or only "attention" or "convolution" (then without alpha and beta).
      shift_form: a form of ops/shift.py; None picks the fastest.
      shift_init: start the convolution as shifts (the paper); False draws its kernel from `kernel_init`, which is
        what the released ResNet does.
      fc_bias: gives fc a bias (the released Swin variant).
      kernel_init: initialiser of the projections, fc and position kernels.
      dtype: type of the computation and the result.

    Channel order as in the released code: attention channel h * dim + j meets convolution channel j * num_heads + n.

    Raises:
      UserError: sizes that do not divide, even sizes without a centre, unknown names.
    """

    features: int
    num_heads: int = 4
    attention: Callable[..., nn.Module] = LocalAttention
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    paths: str = "both"
    shift_form: str | None = None
    shift_init: bool = True
    fc_bias: bool = False
    kernel_init: Initializer = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_choice("paths", self.paths, PATHS)
        if self.features % self.num_heads:
            raise UserError(f"features={self.features} is not divisible by num_heads={self.num_heads}")
        x = x.astype(self.dtype)
        qkv, qkv_bias = Weights((x.shape[-1], 3 * self.features), self._init_each_projection, name="qkv")()
        if self.paths == "attention":
            return self._attend(x, qkv, qkv_bias)
        if self.paths == "convolution":
            return self._convolve(x, qkv, qkv_bias)
        alpha = self.param("alpha", nn.initializers.constant(0.5), ())
        beta = self.param("beta", nn.initializers.constant(0.5), ())
        mixed = alpha * self._attend(x, qkv, qkv_bias) + beta * self._convolve(x, qkv, qkv_bias)
        return mixed.astype(self.dtype)

    def _init_each_projection(self, key, shape, dtype=jnp.float32):
        """q, k and v are three convolutions to the initialiser, whose fan-out is one of them."""
        parts = [self.kernel_init(k, (shape[0], shape[1] // 3), dtype) for k in jax.random.split(key, 3)]
        return jnp.concatenate(parts, axis=1)

    def _project(self, x, qkv, qkv_bias):
        """Stage I: `[B, H, W, 3 * num_heads, dim]`, the heads of q, then of k, then of v."""
        projected = x @ qkv.astype(self.dtype) + qkv_bias.astype(self.dtype)
        return projected.reshape(*x.shape[:3], 3 * self.num_heads, -1)

    def _attend(self, x, qkv, qkv_bias):
        q, k, v = jnp.split(self._project(x, qkv, qkv_bias), 3, axis=3)
        out = self.attention(
            stride=self.stride, dilation=self.dilation, kernel_init=self.kernel_init, dtype=self.dtype,
            name="attention",
        )(q, k, v)  # fmt: skip
        return out.reshape(*out.shape[:3], self.features)

    def _convolve(self, x, qkv, qkv_bias):
        if self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size} has no centre pixel; use an odd number")
        form = self.shift_form or shift.fastest_form(self.features)
        check_choice("shift_form", form, shift.FORMS)
        size, taps, pieces = self.kernel_size, self.kernel_size**2, 3 * self.num_heads

        def shift_init(key, shape, dtype=jnp.float32):
            return shift.shift_kernel(size, self.features, dtype)

        fc, fc_bias = Weights((pieces, taps), self.kernel_init, self.fc_bias, name="fc")()
        kernel, _ = Weights(
            (size, size, taps, self.features),
            shift_init if self.shift_init else self.kernel_init, use_bias=False, name="shift",
        )()  # fmt: skip
        place = {"stride": self.stride, "dilation": self.dilation}
        if form == "dense":
            kernels = (qkv.reshape(x.shape[-1], pieces, -1), qkv_bias.reshape(pieces, -1), fc, fc_bias, kernel)
            return shift.dense_convolution(x, *kernels, **place)
        fc, fc_bias, kernel = jax.tree.map(lambda p: p.astype(self.dtype), (fc, fc_bias, kernel))
        mixed = shift.mix_pieces(self._project(x, qkv, qkv_bias), fc, fc_bias)
        return shift.shift_convolution(mixed, kernel, form=form, **place)
