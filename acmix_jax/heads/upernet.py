"""The heads of UperNet (Xiao et al., ECCV 2018, "Unified perceptual parsing"), as Swin uses them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.heads.segmenter import PixelClassifier
from acmix_jax.layers.norm import ConvNormRelu
from acmix_jax.ops.interpolate import bilinear

POOLS = (1, 2, 3, 6)  # sides of the grids that c5 is averaged to


class UperNet(nn.Module):
    """Pyramid pooling of c5, a feature pyramid with norms, and all its maps joined (mmsegmentation's UPerHead).

    Attributes:
      num_classes: number of logits.
      features: channels of all convolutions.
      dropout, classifier_std: of the `PixelClassifier`.
      dtype: type of the computation; parameters and statistics stay in float32.
    """

    num_classes: int
    features: int = 512
    dropout: float = 0.1
    classifier_std: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[str, jax.Array], train: bool = False) -> jax.Array:
        """Maps of a backbone, finest first, `[B, H, W, C]` each, to logits float32 `[B, H, W, num_classes]`."""
        conv1x1, conv3x3 = (partial(ConvNormRelu, self.features, size, self.dtype) for size in (1, 3))
        *finer, coarsest = maps

        x = maps[coarsest].astype(self.dtype)
        pooled = [conv1x1(name=f"pool{side}")(adaptive_average(x, side), train) for side in POOLS]
        pooled = [bilinear(y, x.shape[1:3]) for y in pooled]
        x = conv3x3(name="bottleneck")(jnp.concatenate([x, *pooled], axis=-1), train)

        outputs, size = [x], maps[finer[0]].shape[1:3]
        for name in reversed(finer):  # from coarse to fine
            lateral = conv1x1(name=f"lateral_{name}")(maps[name], train)
            x = lateral + bilinear(x, lateral.shape[1:3])
            outputs.insert(0, conv3x3(name=f"output_{name}")(x, train))
        joined = jnp.concatenate([bilinear(y, size) for y in outputs], axis=-1)
        fused = conv3x3(name="fpn_bottleneck")(joined, train)
        return PixelClassifier(self.num_classes, self.dropout, self.classifier_std, self.dtype, name="classifier")(
            fused, train
        )


class FCN(nn.Module):
    """A convolution and the classifier on one map (mmsegmentation's FCNHead): UperNet's auxiliary head.

    Attributes:
      num_classes, dropout, classifier_std, dtype: as in `UperNet`.
      features: channels of the convolution.
      source: name of the map.
    """

    num_classes: int
    features: int = 256
    source: str = "c4"
    dropout: float = 0.1
    classifier_std: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[str, jax.Array], train: bool = False) -> jax.Array:
        """A backbone's maps, `[B, H, W, C]` each, to logits float32 `[B, H, W, num_classes]` at the size of one."""
        x = ConvNormRelu(self.features, dtype=self.dtype, name="conv1")(maps[self.source], train)
        return PixelClassifier(self.num_classes, self.dropout, self.classifier_std, self.dtype, name="classifier")(
            x, train
        )


def adaptive_average(x: jax.Array, side: int) -> jax.Array:
    """Averages `[B, H, W, C]` over side x side rectangles, `[B, side, side, C]`, as PyTorch's AdaptiveAvgPool2d.

    Rectangle i spans rows `floor(i * H / side)` to `ceil((i + 1) * H / side)`: they overlap unless side divides H.
    """
    rows, columns = (jnp.asarray(_averages(size, side), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, x, precision="highest")


def _averages(size, side):
    """The matrix `[side, size]` that takes `size` numbers to `side` averages."""
    index, start, end = np.arange(size), np.arange(side) * size // side, -(-np.arange(1, side + 1) * size // side)
    inside = (index >= start[:, None]) & (index < end[:, None])
    return inside / inside.sum(axis=1, keepdims=True)
