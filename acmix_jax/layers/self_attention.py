"""The self-attention layer of the plain networks: Stage I, one attention kind and, with use_proj, a linear map."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.layers.projection import Projected, Projection
from acmix_jax.layers.weights import Initializer, torch_bias, torch_default


class SelfAttention(nn.Module):
    """Self-attention over a map: the mixing layer of plain SAN, PVT and Swin, and one path of ACmix.

    Attributes:
      features: channels of v and of the output, divisible by `num_heads`.
      num_heads: heads of v, and of q and k if `qk_heads` is None; N in the paper.
      qk_heads: heads of q and of k, as wide as those of v; 1 in SAN.
      attention_kind: makes the attention module, from the keywords dtype and name, and stride and dilation where they
        are not 1. One of layers/attention.py; with `reduction`, only GlobalAttention takes k and v on another grid.
      stride: of the output; output pixel (i, j) attends around input pixel (stride * i, stride * j).
      dilation: distance between the taps of a window.
      reduction: k and v come from a map this much smaller (PVT).
      use_proj: a linear map after the attention (Swin, PVT).
      kernel_init, bias_init: initialisers of the linear maps; None is PyTorch's bias.
      dtype: type of the computation and of the result; parameters and the softmax stay in float32.

    Raises:
      UserError: `features` is not divisible by `num_heads`.
    """

    features: int
    num_heads: int = 4
    qk_heads: int | None = None
    attention_kind: Callable[..., nn.Module] = LocalAttention
    stride: int = 1
    dilation: int = 1
    reduction: int = 1
    use_proj: bool = False
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None, **context: Any) -> Any:
        """Attends over x `[B, H, W, C]`; gives `[B, ceil(H / stride), ceil(W / stride), features]`.

        Args:
          tokens: `[B, T, C]`, which take part beside the map (PVT's class token). With them the result is the pair
            (map, `[B, T, features]`).
          **context: what the attention kind is told at each call: `train` (SAN), `window` and `shift` (Swin).
        """
        attended, tokens = self.attend(self.project(x.astype(self.dtype), tokens), **context)
        if self.has_variable("folded", "scale"):  # of the BatchNorm behind the layer (SAN)
            attended = (self.get_variable("folded", "scale") * attended).astype(self.dtype)
        return attended if tokens is None else (attended, tokens)

    @property
    def qkv_heads(self) -> tuple[int, int, int]:
        """Numbers of heads of q, k and v."""
        qk_heads = self.num_heads if self.qk_heads is None else self.qk_heads
        return qk_heads, qk_heads, self.num_heads

    def project(self, x: jax.Array, tokens: jax.Array | None, all_pieces: bool = False) -> Projected:
        """Stage I; call it from a compact method, as `attend`."""
        if self.features % self.num_heads:
            raise UserError(
                f"num_heads={self.num_heads} does not divide features={self.features}; use a divisor of {self.features}"
            )
        projection = Projection(
            self.qkv_heads,
            self.features // self.num_heads,
            self.stride,
            self.reduction,
            self.kernel_init,
            self.bias_init,
            self.dtype,
        )
        nn.share_scope(self, projection)  # its parameters are named qkv, without a level of their own
        with jax.named_scope("stage1"):
            return projection(x, tokens, all_pieces)

    def attend(self, projected: Projected, **context: Any) -> tuple[jax.Array, jax.Array | None]:
        """Stage II, attention: the map and the tokens, each with `features` channels."""
        spacing = {name: getattr(self, name) for name in ("stride", "dilation") if getattr(self, name) != 1}
        with jax.named_scope("stage2_attention"):
            kind = self.attention_kind(dtype=self.dtype, name="attention", **spacing)
            if projected.tokens is None:
                attended = (kind(projected.q, projected.k, projected.v, **context),)
            else:
                attended = kind(projected.q, projected.k, projected.v, tokens=projected.tokens, **context)
            attended = [x.reshape(*x.shape[:-2], self.features) for x in attended]
            if self.use_proj:
                proj = nn.Dense(
                    self.features,
                    kernel_init=self.kernel_init,
                    bias_init=self.bias_init or torch_bias(self.features),
                    dtype=self.dtype,
                    name="proj",
                )
                attended = [proj(x) for x in attended]
        return attended[0], attended[1] if len(attended) > 1 else None
