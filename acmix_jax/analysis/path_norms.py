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
    """Norms over the channels of what one layer adds up, float32 `[B, H, W]` each, a pixel for each of its output.

    A map that Swin fills up to whole windows includes what fills it.
    """

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
      model: from `acmix_jax.create_model`; not folded, where beta is no longer apart.
      images: float `[B, H, W, C]`, normalised.
    """

    def run(variables, images):
        found = {}

        def watch(call, arguments, keywords, context):
            if isinstance(context.module, ACmix) and context.method_name == "weighted_sum":
                alpha, beta, attended, convolved = arguments
                if attended is not None and convolved is not None:
                    attended = attended[0] if isinstance(attended, tuple) else attended  # without PVT's class token
                    pair = [_norm(alpha * attended), _norm(beta * convolved)]
                    found[context.module.path[-2]] = [_unrolled(norms, context.module) for norms in pair]
            return call(*arguments, **keywords)

        with nn.intercept_methods(watch):
            model.apply(variables, images, train=False)
        return found

    found = jax.device_get(jax.jit(run)(variables, images))
    return {block: PathNorms(*norms) for block, norms in found.items()}


def _norm(x):
    return jnp.linalg.norm(x.astype(jnp.float32), axis=-1)


def _unrolled(norms, layer):
    """Swin's shifted blocks roll the map before the layer, and back after it."""
    shift = getattr(layer.attention, "keywords", {}).get("shift", (0, 0))
    return jnp.roll(norms, shift, axis=(1, 2))
