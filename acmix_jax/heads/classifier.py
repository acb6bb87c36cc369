"""A classification network, and the logits of images from the maps of a backbone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.transformer import layer_norm
from acmix_jax.layers.weights import Initializer, check_trainable, torch_bias, torch_default


class ClassifierHead(nn.Module):
    """One linear layer on a summary of the last feature map.

    Attributes:
      num_classes: size of the output.
      summary: "c5", averaged over its pixels, or "token".
      norm_epsilon: of a LayerNorm on the summary before the average; None for no norm.
      kernel_init, bias_init: of the linear layer; None is PyTorch's bias.
      dtype: type of the computation; logits are always float32.
    """

    num_classes: int
    summary: str = "c5"
    norm_epsilon: float | None = None
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[str, jax.Array]) -> jax.Array:
        """A backbone's maps, `[B, H, W, C]` each (token: `[B, C]`), to logits float32 `[B, num_classes]`."""
        x = maps[self.summary]
        if self.norm_epsilon is not None:
            x = layer_norm(self.norm_epsilon, dtype=self.dtype, name="norm")(x)
        pooled = x.mean(axis=tuple(range(1, x.ndim - 1)))
        bias_init = self.bias_init or torch_bias(pooled.shape[-1])
        head = nn.Dense(
            self.num_classes, True, self.dtype, kernel_init=self.kernel_init, bias_init=bias_init, name="head"
        )
        return head(pooled).astype(jnp.float32)


class Classifier(nn.Module):
    """A backbone and a classification head.

    Attributes:
      backbone: module from images to {"c2", "c3", "c4", "c5"}, and "token" if it has a class token.
      classifier: module from these to logits; its parameters lie beside "backbone".

    Raises:
      UserError: training with folded variables.
    """

    backbone: nn.Module
    classifier: ClassifierHead

    def setup(self):
        nn.share_scope(self, self.classifier)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images float `[B, H, W, 3]` to logits float32 `[B, num_classes]`."""
        if train:
            check_trainable(self)
        return self.classifier(self.backbone(images, train))

    def features(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The backbone's maps by name, `[B, H / stride, W / stride, C]` each."""
        maps = self.backbone(images, train)
        return {name: maps[name] for name in ("c2", "c3", "c4", "c5")}

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.classifier.num_classes
