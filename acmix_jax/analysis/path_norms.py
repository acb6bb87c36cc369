"""What alpha and beta hide: how large alpha * attention and beta * convolution are, by layer and pixel.

The two scalars of a layer say how it weighs its paths, not how much each contributes: a path whose values are large
contributes much under a small weight.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.layers.acmix import ACmix


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
    """The norms in each ACmix layer with both paths, by the name of its block, in no order of depth.

    Args:
      model: from `acmix_jax.create_model`; not folded, where both paths hold the scale of the norm behind the layer.
      images: float `[B, H, W, C]`, normalised.
    """

    def run(variables, images):
        found, sizes = {}, {}

        def watch(call, arguments, keywords, context):
            if context.method_name == "__call__" and arguments and arguments[0].ndim == 4:
                sizes[context.module.path] = arguments[0].shape[1:3]
            if isinstance(context.module, ACmix) and context.method_name == "weighted_sum":
                alpha, attended, convolved = arguments
                if attended is not None and convolved is not None:
                    attended = attended[0] if isinstance(attended, tuple) else attended  # without PVT's class token
                    pair = [_norm(alpha * attended), _norm(convolved)]  # beta is in the latter
                    *_, block, _ = path = context.module.path
                    found[block] = [_unrolled(norms, context.module, sizes.get(path[:-1])) for norms in pair]
            return call(*arguments, **keywords)

        with nn.intercept_methods(watch):
            model.apply(variables, images, train=False)
        return found

    found = jax.device_get(jax.jit(run)(variables, images))
    return {block: PathNorms(*norms) for block, norms in found.items()}


def _norm(x):
    return jnp.linalg.norm(x.astype(jnp.float32), axis=-1)


def _unrolled(norms, layer, size):
    """Swin fills the map up to whole windows and, in shifted blocks, rolls it before the layer; after it, back."""
    shift = getattr(layer.attention, "keywords", {}).get("shift", (0, 0))
    norms = jnp.roll(norms, shift, axis=(1, 2))
    return norms if size is None else norms[:, : size[0], : size[1]]  # size: of the block's input
