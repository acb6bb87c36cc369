"""Swin transformer (Liu et al., ICCV 2021) whose attention layer is injected: Swin and Swin-ACmix.

Any image size works: the image is padded to whole patches and each map to whole windows with zeros, as the released
detection backbone does. Where a side of the map is not larger than the window, windows have that side's size, and are
not shifted, as in the released classifier; with `norm_outputs`, for dense tasks, the map is padded and shifted there,
too, as in the released detection and segmentation backbones. In a shifted block the mixing layer sees the rolled map,
as released: the convolution of ACmix then meets a seam where the map was rolled, and zeros beyond the rolled border.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.layers.transformer import Mlp, drop_path, drop_path_rates, layer_norm, patch_conv
from acmix_jax.layers.weights import normal_02
from acmix_jax.ops.window import pad_to_multiple
from acmix_jax.ops.xla_cpu import materialize


class Variant(NamedTuple):
    """The sizes of a Swin transformer."""

    width: int  # channels of the first stage; doubles with each stage
    depths: tuple[int, ...]  # blocks in each stage
    num_heads: tuple[int, ...]
    drop_path: float = 0.0  # of the last block; grows linearly from 0
    patch_size: int = 4
    window_size: int = 7  # of the attention


VARIANTS = {  # Liu et al., section 3.3; drop path from the released configurations
    "swin_tiny": Variant(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "swin_small": Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "swin_base": Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "swin_micro_patch2": Variant(32, (2, 1, 2, 1), (2, 4, 8, 16), patch_size=2),  # ours, for images of 8 to 64 pixels
}


class Block(nn.Module):
    """Mixing layer on windows, then a perceptron, each with LayerNorm before it and a shortcut around it.

    Windows shrink to the sides of a smaller map, which is not shifted, unless `whole_windows`.
    """

    window_size: int
    shifted: bool
    make_mixer: Callable[..., nn.Module]
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: Any = jnp.float32
    whole_windows: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        window = tuple(self.window_size if self.whole_windows else min(self.window_size, n) for n in (height, width))
        is_shifted = self.shifted and (self.whole_windows or min(height, width) > self.window_size)
        shift = (self.window_size // 2 * is_shifted,) * 2
        y = pad_to_multiple(layer_norm(1e-5, dtype=self.dtype, name="norm1")(x), window)
        y = jnp.roll(y, (-shift[0], -shift[1]), axis=(1, 2))
        mixer = self.make_mixer(features=x.shape[-1], dtype=self.dtype, name="mixer")
        y = mixer(y, window=window, shift=shift)
        y = jnp.roll(y, shift, axis=(1, 2))[:, :height, :width]
        x = materialize(x + drop_path(nn.Dropout(self.dropout, deterministic=not train)(y), self.drop_path, train))

        y = layer_norm(1e-5, dtype=self.dtype, name="norm2")(x)
        y = Mlp(4 * x.shape[-1], self.dropout, self.dtype, name="mlp")(y, train)
        return materialize(x + drop_path(y, self.drop_path, train))


class PatchMerging(nn.Module):
    """Every 2x2 pixels become one: `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), 2 C]`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        x = pad_to_multiple(x, (2, 2))
        x = jnp.concatenate([x[:, y::2, z::2] for z in (0, 1) for y in (0, 1)], axis=-1)  # rows first, as released
        x = layer_norm(1e-5, dtype=self.dtype, name="norm")(x)
        return nn.Dense(2 * features, use_bias=False, kernel_init=normal_02, dtype=self.dtype, name="reduction")(x)


class Swin(nn.Module):
    """Image to the feature maps of its four stages.

    Attributes:
      variant: sizes, see VARIANTS.
      mixers: for each stage, makes the mixing layer of a block from the keywords features, dtype and name; the layer is
        called with x, the `window` (height, width) and the `shift` of x.
      drop_path: rate of the last block; None is the variant's own.
      dropout: rate after the patch embedding, the mixing layers and in the perceptrons.
      dtype: type of the computation; parameters stay in float32.
      remat: rematerialises each block in the backward pass: less memory, more time.
      norm_outputs: the backbone of dense tasks, whose maps go through a LayerNorm each, beside the network; windows
        keep their size, and odd blocks their shift, on small maps as well.
    """

    variant: Variant
    mixers: Sequence[Callable[..., nn.Module]]
    drop_path: float | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    norm_outputs: bool = False

    @property
    def widths(self) -> dict[str, int]:
        """Channels of the feature maps, by name."""
        return {f"c{stage + 2}": self.variant.width * 2**stage for stage in range(4)}

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image for each pixel of the feature maps along an axis, by name."""
        return {f"c{stage + 2}": self.variant.patch_size * 2**stage for stage in range(4)}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`[B, H, W, 3]` to {"c2", "c3", "c4", "c5"}, `[B, ceil(H / stride), ceil(W / stride), width]` each."""
        variant = self.variant
        x = pad_to_multiple(images.astype(self.dtype), (variant.patch_size,) * 2)
        x = patch_conv(variant.width, variant.patch_size, self.dtype, images.shape[-1], name="patch_embed")(x)
        x = layer_norm(1e-5, dtype=self.dtype, name="patch_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        rate = variant.drop_path if self.drop_path is None else self.drop_path
        make_block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        features = {}
        for stage, rates in enumerate(drop_path_rates(rate, variant.depths)):
            if stage > 0:
                x = PatchMerging(self.dtype, name=f"stage{stage + 1}_merge")(x)
            for block, block_rate in enumerate(rates):
                x = make_block(
                    variant.window_size, block % 2 == 1, self.mixers[stage], block_rate, self.dropout, self.dtype,
                    self.norm_outputs, name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)  # fmt: skip
            name = f"c{stage + 2}"
            norm = layer_norm(1e-5, dtype=self.dtype, name=f"{name}_norm") if self.norm_outputs else lambda x: x
            features[name] = norm(x)
        return features
