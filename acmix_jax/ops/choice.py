"""Default form of each path by backend. All forms of a path compute the same; they differ in time and memory."""

import math
from typing import NamedTuple

import jax


class Limits(NamedTuple):
    """Largest size at which the form named first is the default."""

    tiled_queries: int  # attention: tiled up to this many queries in a map, recomputed beyond
    dense_features: float  # convolution: dense up to this many input features, multiply_shift beyond


_MEASURED_ON_CPU = Limits(tiled_queries=512, dense_features=128)  # docs/performance.md
# A guess: nobody has timed either path there. Recomputed attention saves memory on any backend, but it loops over the
# rows of tiles one by one, so the limit is the CPU's; a dense convolution suits matrix units at any number of features.
_GUESS = _MEASURED_ON_CPU._replace(dense_features=math.inf)

LIMITS = {"cpu": _MEASURED_ON_CPU, "gpu": _GUESS, "tpu": _GUESS}


def attention_form(height: int, width: int, backend: str | None = None) -> str:
    """Default form of `neighborhood_attention` for a map of `height` x `width` queries.

    Args:
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` returns it; None for that one.
    """
    return "tiled" if height * width <= _limits(backend).tiled_queries else "recomputed"


def convolution_form(in_features: int, backend: str | None = None) -> str:
    """Default form of the convolution path for an input of `in_features` channels.

    Per output pixel, dense costs k^2 multiply-adds for each pair of input and output feature; the cost of
    multiply_shift does not depend on `in_features`.

    Args:
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` returns it; None for that one.
    """
    return "dense" if in_features <= _limits(backend).dense_features else "multiply_shift"


def _limits(backend):
    return LIMITS.get(backend or jax.default_backend(), _GUESS)
