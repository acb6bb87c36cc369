"""A segmentation network, and the class of each pixel from its features."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.weights import check_trainable


class PixelClassifier(nn.Module):
    """Dropout of whole channels and a linear map of each pixel (mmsegmentation's cls_seg).

    Attributes:
      num_classes: number of logits.
      dropout: rate.
      kernel_std: standard deviation of the first weights. mmsegmentation's 0.01 is made for pretrained backbones: with
        fresh ones, the classes of small objects then stay alike for long.
      dtype: type of the computation; logits are float32, or wider with a wider `dtype`.
    """

    num_classes: int
    dropout: float = 0.1
    kernel_std: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        linear = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(self.kernel_std), dtype=self.dtype)
        nn.share_scope(self, linear)
        return linear(x).astype(jnp.promote_types(self.dtype, jnp.float32))  # [B, H, W, num_classes]


class Segmenter(nn.Module):
    """A backbone and the heads that turn its maps into logits for each pixel of the finest one.

    Attributes:
      backbone: module from images to {"c2", "c3", "c4", "c5"}.
      head: module from maps to logits.
      neck: module from the backbone's maps to those of the heads; None for none.
      auxiliary: a second head, for a loss in training only; None for none.

    Raises:
      UserError: training with folded variables.
    """

    backbone: nn.Module
    head: nn.Module
    neck: nn.Module | None = None
    auxiliary: nn.Module | None = None

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images float `[B, H, W, 3]` to logits float32 `[B, h, w, num_classes]`, h and w being those of c2."""
        return self.head(self._maps(images, train), train)

    def with_auxiliary(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        """As a call, and the logits of the auxiliary heads; initialise through this method, for all parameters.

        An auxiliary head has the size of the map that it looks at.
        """
        maps = self._maps(images, train)
        return self.head(maps, train), [] if self.auxiliary is None else [self.auxiliary(maps, train)]

    def _maps(self, images, train):
        if train:
            check_trainable(self)
        maps = self.features(images, train)
        return maps if self.neck is None else self.neck(maps)

    def features(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The backbone's maps by name, `[B, H / stride, W / stride, C]` each."""
        maps = self.backbone(images, train)
        return {name: maps[name] for name in ("c2", "c3", "c4", "c5")}

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.head.num_classes
