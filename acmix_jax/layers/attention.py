"""The attention kinds. A kind receives q, k and v already projected, as maps with the heads apart."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.weights import Initializer, Weights, torch_default
from acmix_jax.ops.neighborhood import neighborhood_attention, position_map


class LocalAttention(nn.Module):
    """Attention over a window around each pixel, with a relative position term (ResNet-ACmix).

    Attributes:
      window_size: width of the window in taps, odd (7 in the paper).
      stride, dilation: see `ops.neighborhood`.
      position: adds the relative position term, a learned linear map of the coordinate difference.
      form: a form of `neighborhood_attention`.
    """

    window_size: int = 7
    stride: int = 1
    dilation: int = 1
    position: bool = True
    form: str = "tiled"
    kernel_init: Initializer = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """q, k, v `[B, H, W, heads, dim]` to `[B, ceil(H / stride), ceil(W / stride), heads, dim]`."""
        embedding = None
        if self.position:
            # The bias cancels out of every logit; it is here because released checkpoints have it.
            kernel, bias = Weights((2, q.shape[-1]), self.kernel_init, name="position")()
            coordinates = position_map(*q.shape[1:3], dtype=kernel.dtype)
            embedding = (coordinates @ kernel + bias).astype(self.dtype)  # [H, W, dim]
        return neighborhood_attention(
            q, k, v, embedding,
            window_size=self.window_size, stride=self.stride, dilation=self.dilation, form=self.form,
        )  # fmt: skip
