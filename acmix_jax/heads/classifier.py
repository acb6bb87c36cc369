"""Image classification on top of any backbone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.weights import torch_bias, torch_default


class Classifier(nn.Module):
    """Average of the last feature map, then one linear layer.

    Attributes:
      backbone: module from images to {"c2", "c3", "c4", "c5"}.
      num_classes: size of the output.
      dtype: type of the computation; logits are always float32.
    """

    backbone: nn.Module
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images float `[B, H, W, 3]` to logits float32 `[B, num_classes]`."""
        pooled = self.features(images, train)["c5"].mean(axis=(1, 2))
        head = nn.Dense(
            self.num_classes, kernel_init=torch_default, bias_init=torch_bias(pooled.shape[-1]), dtype=self.dtype,
            name="head",
        )  # fmt: skip
        return head(pooled).astype(jnp.float32)

    def features(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The backbone's maps by name, `[B, H / stride, W / stride, C]` each."""
        return self.backbone(images, train)
