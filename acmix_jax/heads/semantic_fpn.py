"""The head of Semantic FPN (Kirillov et al., CVPR 2019, "Panoptic feature pyramid networks"), as PVT uses it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.heads.segmenter import PixelClassifier
from acmix_jax.layers.norm import ConvNormRelu
from acmix_jax.ops.interpolate import bilinear


class SemanticFPN(nn.Module):
    """Sum of all maps at the size of the finest one, to logits (mmsegmentation's FPNHead).

    A map that is 2^n times smaller than the finest goes n times through a convolution and is then enlarged twofold; the
    finest goes through one convolution.

    Attributes:
      num_classes: number of logits.
      features: channels of the convolutions.
      dropout, classifier_std: of the `PixelClassifier`.
      dtype: type of the computation; parameters and statistics stay in float32.
    """

    num_classes: int
    features: int = 128
    dropout: float = 0.1
    classifier_std: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[str, jax.Array], train: bool = False) -> jax.Array:
        """Maps of an FPN, finest first, `[B, H, W, C]` each, to logits float32 `[B, H, W, num_classes]`."""
        size, total = next(iter(maps.values())).shape[1:3], None
        for level, (name, x) in enumerate(maps.items()):
            for step in range(1, max(level, 1) + 1):
                x = ConvNormRelu(self.features, dtype=self.dtype, name=f"{name}_conv{step}")(x, train)
                if level > 0:
                    x = bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))
            x = bilinear(x, size)  # differs only where a stride does not divide the image
            total = x if total is None else total + x
        return PixelClassifier(self.num_classes, self.dropout, self.classifier_std, self.dtype, name="classifier")(
            total, train
        )
