"""SAN, the self-attention network (Zhao et al., CVPR 2020), whose attention layer is injected: plain and with ACmix.

SAN-ACmix is derived here: the paper says that it keeps SAN's patchwise attention and reports parameters and
multiply-adds (12.1 M, 1.9 G for SAN-ACmix-10), but no code was released. In a block of C channels SAN projects to q
and k of C / 16 channels and v of C / 4, so in units of C / 16 there are six pieces: one of q, one of k, four of v.
fc mixes these six into nine maps of C / 16 channels, whose shifts are summed into C / 4 outputs, four for each
channel, to be added to the attention. That gives 11.99, 16.41 and 20.83 M parameters for the paper's 12.1, 16.6 and
21.2, and 1.89, 2.63 and 3.32 G multiply-adds for its 1.9, 2.7 and 3.4; repeating q and k for each piece of v would
add nothing but work.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError
from acmix_jax.layers.norm import BatchNorm
from acmix_jax.layers.weights import torch_bias, torch_default
from acmix_jax.ops.xla_cpu import dot_general, materialize


class Variant(NamedTuple):
    """The sizes of a SAN."""

    depths: tuple[int, ...]  # blocks in each of five stages
    widths: tuple[int, ...] = (64, 256, 512, 1024, 2048)
    window_sizes: tuple[int, ...] = (3, 7, 7, 7, 7)
    first_pool: bool = True  # halve the image before the first stage


VARIANTS = {  # Zhao et al., table 2
    "san10": Variant((2, 1, 2, 4, 1)),
    "san15": Variant((3, 2, 3, 5, 2)),
    "san19": Variant((3, 3, 4, 6, 3)),
    "san5_stem1": Variant((1, 1, 1, 1, 1), (32, 64, 128, 256, 512), first_pool=False),  # ours, from 16 to 64 pixels
}


class Block(nn.Module):
    """BatchNorm, ReLU, mixing layer; BatchNorm, ReLU, 1x1; a shortcut around both. `[B, H, W, C]` to the same."""

    make_mixer: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = x.shape[-1]
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        y = nn.relu(norm(name="norm1")(x))
        y = self.make_mixer(features=features // 4, dtype=self.dtype, name="mixer")(y, train=train)
        y = nn.Dense(
            features, kernel_init=torch_default, bias_init=torch_bias(features // 4), dtype=self.dtype,
            dot_general=dot_general, name="conv",
        )(nn.relu(norm(name="norm2")(y)))  # fmt: skip
        return materialize(x + y)


class SAN(nn.Module):
    """Image to the feature maps of its last four stages.

    Attributes:
      variant: sizes, see VARIANTS.
      mixers: for each of the five stages, makes the mixing layer of a block from the keywords features, dtype and name;
        the layer is called with x and `train`.
      dtype: type of the computation; parameters and BatchNorm statistics stay in float32.
      remat: rematerialises each block in the backward pass: less memory, more time.
    """

    variant: Variant
    mixers: Sequence[Callable[..., nn.Module]]
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def widths(self) -> dict[str, int]:
        """Channels of the feature maps, by name."""
        return {f"c{stage}": width for stage, width in enumerate(self.variant.widths[1:], start=2)}

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image for each pixel of the feature maps along an axis, by name."""
        return {f"c{stage}": 2 ** (stage - 1 + self.variant.first_pool) for stage in range(2, 6)}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`[B, H, W, 3]` to {"c2", "c3", "c4", "c5"}, `[B, H // stride, W // stride, width]` each.

        Raises:
          UserError: images smaller than the stride of c5.
        """
        smallest = self.strides["c5"]
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for this SAN, which needs "
                f"at least {smallest}x{smallest}; use larger images, or a model for small ones: *_stem1 from 16x16"
            )
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        conv1x1 = partial(
            nn.Dense, use_bias=False, kernel_init=torch_default, dtype=self.dtype, dot_general=dot_general
        )
        x = conv1x1(self.variant.widths[0], name="stem_conv")(images.astype(self.dtype))
        x = nn.relu(norm(name="stem_norm")(x))
        make_block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        features = {}
        for stage, depth in enumerate(self.variant.depths):
            if stage > 0 or self.variant.first_pool:
                x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
            x = conv1x1(self.variant.widths[stage], name=f"stage{stage + 1}_conv")(x)
            for block in range(depth):
                name = f"stage{stage + 1}_block{block + 1}"
                x = make_block(self.mixers[stage], self.dtype, name=name)(x, train)
            x = nn.relu(norm(name=f"stage{stage + 1}_norm")(x))
            if stage > 0:
                features[f"c{stage + 1}"] = x
        return features
