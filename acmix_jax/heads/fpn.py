"""Feature pyramid network (Lin et al., CVPR 2017), the neck between a backbone and the heads of dense tasks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import check_choice
from acmix_jax.ops.interpolate import nearest
from acmix_jax.ops.subsample import subsample
from acmix_jax.ops.xla_cpu import dot_general

EXTRAS = ("pool", "conv")


class FPN(nn.Module):
    """Maps of one width that all see what the coarsest map sees, without norm or activation, as in mmdetection.

    1x1 convolutions; from coarse to fine, each map gets the next coarser one, enlarged; 3x3 convolutions.

    Attributes:
      features: channels of the results.
      first: name of the finest map to use, "c2" or (RetinaNet) "c3".
      count: number of results; those beyond the maps halve the size each time.
      extra: how they do: "pool" takes every second pixel of the last result (Mask R-CNN), "conv" a 3x3 convolution of
        c5 and then of the result before (RetinaNet, on_input).
      dtype: type of the computation; parameters stay in float32.
    """

    features: int = 256
    first: str = "c2"
    count: int = 4
    extra: str = "pool"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """{"c2": `[B, H, W, C]`, ..., "c5"} to {"p2": `[B, H, W, features]`, ...}, of the same sizes.

        Raises:
          UserError: unknown `extra`.
        """
        check_choice("extra", self.extra, EXTRAS)
        init = {"kernel_init": nn.initializers.xavier_uniform(), "dtype": self.dtype}
        conv3x3 = partial(nn.Conv, self.features, (3, 3), padding=1, **init)
        levels = range(int(self.first[1:]), 6)
        merged, above = {}, None
        for level in reversed(levels):
            lateral = nn.Dense(self.features, dot_general=dot_general, name=f"lateral_c{level}", **init)
            x = lateral(maps[f"c{level}"])
            above = merged[level] = x if above is None else x + nearest(above, x.shape[1:3])
        results = {f"p{level}": conv3x3(name=f"output_p{level}")(merged[level]) for level in levels}
        is_pool = self.extra == "pool"
        last = results[f"p{levels[-1]}"] if is_pool else maps[f"c{levels[-1]}"]
        for level in range(levels[-1] + 1, levels[0] + self.count):
            last = subsample(last, 2) if is_pool else conv3x3(strides=2, name=f"output_p{level}")(last)
            results[f"p{level}"] = last
        return results
