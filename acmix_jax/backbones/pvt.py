"""Pyramid vision transformer (PVT v1; Wang et al., ICCV 2021) whose attention layer is injected.

PVT-ACmix is derived here: the paper has its numbers (13 M parameters and 2.0 G multiply-adds for the tiny one, 25 M
and 3.9 G for the small one), but no code was released. PVT attends from each pixel to a map of k and v that is
`reduction` times smaller, while the convolution path needs 3N pieces on one grid. Here attention stays as it is, k and
v are repeated to the full grid for the convolution path only, fc mixes them before that (it acts on each pixel alone),
and the projection after the attention leaves the convolution path out, as in Swin-ACmix. That takes 2.00 and 3.95 G,
as in the paper. A convolution path from the pieces of q alone would match as well (2.00 and 3.95 G), but the paper has
3N pieces. Projecting k and v anew at full size would take 2.2 to 2.3 and 4.4 to 4.5 G, and without the reduction the
tiny one has 11.5 M parameters. The class token has no position on the map: it takes part in attention, weighted with
alpha, and the convolution does not see it. As the classifier reads only that token, the convolution of the very last
block has no gradient in classification (in dense tasks, which leave the token out, it has).

Images may have any size: as released, a row or column that fills no patch is left out, and the position embeddings
are interpolated. (The released code takes any grid of 56 * 56 pixels for the first stage's and leaves its embeddings as
they are, so that 128x392 pixels come out differently there, and 448x448 fail; here the shape of the grid decides.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.errors import UserError
from acmix_jax.layers.transformer import Mlp, drop_path, drop_path_rates, layer_norm, patch_conv
from acmix_jax.layers.weights import normal_02
from acmix_jax.ops.xla_cpu import materialize


class Variant(NamedTuple):
    """The sizes of a PVT."""

    depths: tuple[int, ...]  # blocks in each stage
    drop_path: float = 0.1  # of the last block; grows linearly from 0
    widths: tuple[int, ...] = (64, 128, 320, 512)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)  # of the maps of k and v
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    patch_sizes: tuple[int, ...] = (4, 2, 2, 2)
    image_size: int = 224  # whose grids the position embeddings have


VARIANTS = {  # Wang et al., table 1; drop path from the released configurations
    "pvt_tiny": Variant((2, 2, 2, 2)),
    "pvt_small": Variant((3, 4, 6, 3)),
    "pvt_medium": Variant((3, 4, 18, 3), 0.3),
    "pvt_large": Variant((3, 8, 27, 3), 0.3),
    "pvt_micro_patch2": Variant(  # ours, for images of 16 to 64 pixels
        (1, 1, 2, 1), 0.0, (32, 64, 128, 256), (1, 2, 4, 8), (4, 2, 1, 1), (4, 4, 4, 4), (2, 2, 2, 2), image_size=28
    ),
}


class Block(nn.Module):
    """Mixing layer, then a perceptron, each with LayerNorm before it and a shortcut around it.

    Works on a sequence `[B, T + H * W, C]` of T class tokens (0 or 1) and the pixels of a map.
    """

    mlp_ratio: int
    make_mixer: Callable[..., nn.Module]
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, height: int, width: int, train: bool) -> jax.Array:
        features, tokens = x.shape[-1], x.shape[1] - height * width
        mixer = self.make_mixer(features=features, dtype=self.dtype, name="mixer")
        y = layer_norm(1e-6, dtype=self.dtype, name="norm1")(x)
        pixels = y[:, tokens:].reshape(-1, height, width, features)
        if tokens:
            pixels, token = mixer(pixels, y[:, :tokens])
            y = jnp.concatenate([token, pixels.reshape(-1, height * width, features)], axis=1)
        else:
            y = mixer(pixels).reshape(-1, height * width, features)
        x = materialize(x + drop_path(nn.Dropout(self.dropout, deterministic=not train)(y), self.drop_path, train))
        y = layer_norm(1e-6, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_ratio * features, self.dropout, self.dtype, name="mlp")(y, train)
        return materialize(x + drop_path(y, self.drop_path, train))


class PVT(nn.Module):
    """Image to the feature maps of its four stages, and the class token.

    Dense tasks leave the class token out, as the released detection and segmentation backbones do.

    Attributes:
      variant: sizes, see VARIANTS.
      mixers: for each stage, makes the mixing layer of a block from the keywords features, dtype and name; the layer is
        called with the map and, in the last stage, the class token.
      drop_path: rate of the last block; None is the variant's own.
      dropout: rate after the position embeddings, the mixing layers and in the perceptrons.
      dtype: type of the computation; parameters stay in float32.
      remat: rematerialises each block in the backward pass: less memory, more time.
      use_class_token: without it there is no "token" in the result. The last table of positions keeps its place for
        the token, unused, as in the released dense backbones.
    """

    variant: Variant
    mixers: Sequence[Callable[..., nn.Module]]
    drop_path: float | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    use_class_token: bool = True

    @property
    def widths(self) -> dict[str, int]:
        """Channels of the feature maps, by name."""
        return {f"c{stage}": width for stage, width in enumerate(self.variant.widths, start=2)}

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image for each pixel of the feature maps along an axis, by name."""
        return {f"c{stage}": int(s) for stage, s in enumerate(np.cumprod(self.variant.patch_sizes), start=2)}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`[B, H, W, 3]` to {"c2", ..., "c5", "token"}, `[B, H // stride, W // stride, width]` and `[B, width]`.

        The token is the class token of the last stage, to which c5 attends.

        Raises:
          UserError: images so small that a map or its reduced k and v would have no pixel.
        """
        variant = self.variant
        rate = variant.drop_path if self.drop_path is None else self.drop_path
        x, grid, features = images.astype(self.dtype), variant.image_size, {}
        self._check_size(images.shape[1:3])
        make_block = nn.remat(Block, static_argnums=(2, 3, 4)) if self.remat else Block
        for stage, rates in enumerate(drop_path_rates(rate, variant.depths)):
            width, patch, name = variant.widths[stage], variant.patch_sizes[stage], f"stage{stage + 1}"
            x = patch_conv(width, patch, self.dtype, x.shape[-1], name=f"{name}_embed")(x)
            x = layer_norm(1e-5, dtype=self.dtype, name=f"{name}_embed_norm")(x)
            rows, columns = x.shape[1:3]
            x = x.reshape(-1, rows * columns, width)
            grid, places = grid // patch, int(stage == len(variant.depths) - 1)
            tokens = places * self.use_class_token
            position = self.param(f"{name}_position", normal_02, (1, places + grid * grid, width), jnp.float32)
            if places > tokens:
                position = position[:, places:]
            if tokens:
                token = self.param("class_token", normal_02, (1, 1, width), jnp.float32).astype(self.dtype)
                x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, width)), x], axis=1)
            x += _interpolate(position, tokens, grid, rows, columns).astype(self.dtype)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            for block, block_rate in enumerate(rates):
                x = make_block(
                    variant.mlp_ratios[stage], self.mixers[stage], block_rate, self.dropout, self.dtype,
                    name=f"{name}_block{block + 1}",
                )(x, rows, columns, train)  # fmt: skip
            if tokens:
                features["token"] = x[:, 0]
            x = features[f"c{stage + 2}"] = x[:, tokens:].reshape(-1, rows, columns, width)
        return features

    def _check_size(self, size):
        smallest = max(s * r for s, r in zip(self.strides.values(), self.variant.reductions, strict=True))
        if min(size) < smallest:
            raise UserError(
                f"images of {size[0]}x{size[1]} pixels are too small for this PVT, which needs at least "
                f"{smallest}x{smallest}; use larger images, or a model for small ones: *_patch2 from 16x16"
            )


def _interpolate(position, tokens, grid, rows, columns):
    """Position embeddings `[1, tokens + grid**2, C]` for a map of rows x columns: bilinear, as released."""
    if (rows, columns) == (grid, grid):
        return position
    pixels = position[:, tokens:].reshape(1, grid, grid, -1)
    pixels = jax.image.resize(pixels, (1, rows, columns, pixels.shape[-1]), "bilinear", antialias=False)
    return jnp.concatenate([position[:, :tokens], pixels.reshape(1, rows * columns, -1)], axis=1)
