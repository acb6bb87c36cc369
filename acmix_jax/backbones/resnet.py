"""ResNet (He et al., CVPR 2016) whose 3x3 convolutions are injected: plain ResNet and ResNet-ACmix.

Bottleneck blocks in the "v1.5" form, the stride in the middle layer, as in torchvision and the released ACmix code.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError
from acmix_jax.layers.norm import BatchNorm
from acmix_jax.layers.weights import kaiming_fan_out
from acmix_jax.ops.subsample import subsample
from acmix_jax.ops.xla_cpu import dot_general, materialize


class Variant(NamedTuple):
    """The sizes of a ResNet."""

    depths: tuple[int, ...]  # bottlenecks in each stage
    width: int = 64  # of the first stage's 3x3 layers; doubles with each stage, the block's output is 4 times as wide
    stem: str = "imagenet"


VARIANTS = {  # depths: ResNet-50 from He et al., table 1; 26 and 38 from Zhao et al. (SAN, CVPR 2020), table 2
    "resnet26": Variant((1, 2, 4, 1)),
    "resnet38": Variant((2, 3, 5, 2)),
    "resnet50": Variant((3, 4, 6, 3)),
    "resnet14_stem1": Variant((1, 1, 1, 1), width=16, stem="stride1"),  # ours, for images of 8 to 20 pixels
    "resnet20_stem2": Variant((1, 2, 2, 1), width=16, stem="stride2"),  # ours, for images of 20 to 64 pixels
}

STEM_STRIDES = {"imagenet": 4, "stride1": 1, "stride2": 2}


def conv3x3(features, stride, dtype, name):
    """The mixing layer of the plain ResNet."""
    return nn.Conv(
        features, (3, 3), stride, padding=1, use_bias=False, kernel_init=kaiming_fan_out, dtype=dtype, name=name
    )


class Bottleneck(nn.Module):
    """1x1, mixing layer, 1x1, each with BatchNorm, and a shortcut around them."""

    width: int
    stride: int
    make_mixer: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv1x1 = partial(
            nn.Dense, use_bias=False, kernel_init=kaiming_fan_out, dtype=self.dtype, dot_general=dot_general
        )
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        y = nn.relu(norm(name="norm1")(conv1x1(self.width, name="conv1")(x)))
        y = self.make_mixer(features=self.width, stride=self.stride, dtype=self.dtype, name="mixer")(y)
        y = nn.relu(norm(name="norm2")(y))
        y = norm(name="norm3")(conv1x1(4 * self.width, name="conv3")(y))
        if x.shape != y.shape:
            x = conv1x1(4 * self.width, name="shortcut_conv")(subsample(x, self.stride))
            x = norm(name="shortcut_norm")(x)
        return materialize(nn.relu(x + y))


class ResNet(nn.Module):
    """Image to the feature maps of its four stages.

    Attributes:
      variant: sizes, see VARIANTS.
      mixers: for each stage, makes the layer in the middle of a block from the keywords features, stride, dtype, name.
      dtype: type of the computation; parameters and BatchNorm statistics stay in float32.
      remat: rematerialises each block in the backward pass: less memory, more time.
      frozen_stages: with s > 0, the stem and the first s stages get no gradient and normalise by running statistics.
        Weight decay still applies to them, unless the optimizer freezes them too.
      norm_eval: all BatchNorms normalise by running statistics, in training too; scale and bias still learn.
    """

    variant: Variant
    mixers: Sequence[Callable[..., nn.Module]] = (conv3x3,) * 4
    dtype: Any = jnp.float32
    remat: bool = False
    frozen_stages: int = 0
    norm_eval: bool = False

    @property
    def widths(self) -> dict[str, int]:
        """Channels of the feature maps, by name."""
        return {f"c{stage + 2}": 4 * self.variant.width * 2**stage for stage in range(4)}

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image for each pixel of the feature maps along an axis, by name."""
        return {f"c{stage + 2}": STEM_STRIDES[self.variant.stem] * 2**stage for stage in range(4)}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`[B, H, W, 3]` to {"c2", "c3", "c4", "c5"}, `[B, ceil(H / stride), ceil(W / stride), width]` each.

        Raises:
          UserError: images smaller than the stride of c5; most of each window would be reflection.
        """
        smallest = self.strides["c5"]
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for this ResNet, which needs at "
                f"least {smallest}x{smallest}; use larger images, or a model for small ones: *_stem1 from 8x8, "
                "*_stem2 from 16x16"
            )
        train = train and not self.norm_eval
        norm = BatchNorm(use_running_average=not train or self.frozen_stages > 0, dtype=self.dtype, name="stem_norm")
        x = nn.relu(norm(self._stem()(images.astype(self.dtype))))
        if self.variant.stem == "imagenet":
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        make_block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        features = {}
        for stage, depth in enumerate(self.variant.depths):
            train_stage = train and stage >= self.frozen_stages
            for number in range(1, depth + 1):
                stride = 2 if stage > 0 and number == 1 else 1
                name = f"stage{stage + 1}_block{number}"
                block = make_block(self.variant.width * 2**stage, stride, self.mixers[stage], self.dtype, name=name)
                x = block(x, train_stage)
            x = jax.lax.stop_gradient(x) if stage < self.frozen_stages else x
            features[f"c{stage + 2}"] = x
        return features

    def _stem(self):
        size, stride = {"imagenet": (7, 2), "stride1": (3, 1), "stride2": (3, 2)}[self.variant.stem]
        return nn.Conv(
            self.variant.width, (size, size), stride, padding=size // 2, use_bias=False,
            kernel_init=kaiming_fan_out, dtype=self.dtype, name="stem_conv",
        )  # fmt: skip
