"""Norms of alpha * attention and beta * convolution, by layer and pixel, which alpha and beta alone do not show.

The two scalars of a layer say how it weighs its paths, not how much each contributes: a path whose values are large
contributes much under a small weight.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class PathNorms(NamedTuple):
    """Norms over the channels of what one layer adds up, float32 `[B, H, W]` each, a pixel for each of its output."""

    attention: np.ndarray  # of alpha * F_att
    convolution: np.ndarray  # of beta * F_conv

    @property
    def log_ratio(self) -> float:
        """log(||alpha * F_att|| / ||beta * F_conv||) over all images, pixels and channels; infinite if one is 0."""
        return float(_log_ratio(*(np.linalg.norm(x.ravel()) for x in self)))

    @property
    def log_ratio_by_pixel(self) -> np.ndarray:
        """The same for each pixel, `[B, H, W]`."""
        return _log_ratio(self.attention, self.convolution)


def _log_ratio(attention, convolution):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(attention) - np.log(convolution)


def path_norms(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, PathNorms]:
    """Measures the norms in each ACmix layer with both paths; by the name of its block, in no order of depth.

    Args:
      model: from `acmix_jax.create_model` without remat; not folded, where both paths hold the scale of the norm behind
        the layer.
      images: float `[B, H, W, C]`, normalised.
    """

    @jax.jit
    def run(variables, images):
        _, state = model.apply(
            variables, images, mutable=["intermediates"], capture_intermediates=lambda module, _: _is_block(module)
        )
        blocks = state["intermediates"]["backbone"]
        return {
            name: [_norm(block["mixer"][f"weighted_{path}"][0], block) for path in PathNorms._fields]
            for name, block in blocks.items()
            if {f"weighted_{path}" for path in PathNorms._fields} <= block.get("mixer", {}).keys()
        }

    return {block: PathNorms(*norms) for block, norms in jax.device_get(run(variables, images)).items()}


def _is_block(module):
    return "_block" in (module.name or "")


def _norm(x, block):
    """Norms of a map in a block; Swin pads the map to whole windows and rolls it before the layer, which is undone."""
    norms = jnp.linalg.norm(x.astype(jnp.float32), axis=-1)
    shift = block["mixer"].get("attention", {}).get("shift", [(0, 0)])[0]
    norms = jnp.roll(norms, tuple(int(i) for i in shift), axis=(1, 2))
    output = block["__call__"][0]  # [B, H, W, C], but for PVT [B, T + H * W, C]
    return norms if output.ndim == 3 else norms[:, : output.shape[1], : output.shape[2]]
