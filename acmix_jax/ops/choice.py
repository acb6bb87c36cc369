"""Default form of the two paths that have several, by backend: ResNet's attention and all networks' convolution.

All forms of a path compute the same; they differ in time and memory. Swin, PVT and SAN have one form of attention.

A program gets the form of the backend that it is lowered for (`by_backend`), whatever the default backend of the
process: a TPU's program can be compiled, or exported, on a machine without one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jax import lax


class Limits(NamedTuple):
    """Largest size at which the form named first is the default."""

    tiled_queries: float  # attention: tiled up to this many queries in a map, recomputed beyond
    dense_features: float  # convolution: dense up to this many input features, multiply_shift beyond


_NO_LIMITS = Limits(tiled_queries=math.inf, dense_features=math.inf)

LIMITS = {
    "cpu": Limits(tiled_queries=512, dense_features=128),  # measured, docs/performance.md
    "gpu": _NO_LIMITS,  # measured for attention (docs/accelerators.md), by the compiler's numbers for the convolution
    "tpu": _NO_LIMITS,
}
_PLATFORMS = {"cpu": ("cpu",), "gpu": ("cuda", "rocm"), "tpu": ("tpu",)}  # as JAX's lowering names them


def attention_form(height: int, width: int, backend: str) -> str:
    """Default form of `neighborhood_attention` for a map of `height` x `width` queries.

    Args:
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` returns it.
    """
    return "tiled" if height * width <= _limits(backend).tiled_queries else "recomputed"


def run_attention_form(backend: str, itemsize: int, batch_norm_groups: int) -> str | None:
    """Form of `neighborhood_attention` in runs of main.py, whose devices are known before the network is traced.

    The operator traces the default forms of all backends, and tracing the kernels takes seconds for each network.

    Args:
      backend: of the run's devices.
      itemsize: bytes of a number of the computation; in types of 4 bytes the kernels have not been measured.
      batch_norm_groups: of the config. With several, each device would gather the others' images for a kernel.

    Returns:
      "kernel" where its time has been measured (docs/accelerators.md), else None for `attention_form`.
    """
    return "kernel" if backend == "gpu" and itemsize == 2 and batch_norm_groups == 1 else None


def convolution_form(in_features: int, stride: int, backend: str) -> str:
    """Default form of the convolution path for an input of `in_features` channels.

    Per output pixel, dense costs k^2 multiply-adds for each pair of input and output feature. The cost of
    multiply_shift does not depend on `in_features`, but it needs the queries of pixels that a stride skips. So that no
    program computes those for another backend's form, a strided layer is dense everywhere (docs/performance.md).

    Args:
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` returns it.
    """
    return "dense" if stride > 1 or in_features <= _limits(backend).dense_features else "multiply_shift"


def by_backend(choose: Callable[[str], Any], compute: Callable[..., Any], *operands: Any) -> Any:
    """Computes `compute(choose(backend), *operands)` for the backend that the program is lowered for.

    Args:
      choose: "cpu", "gpu" or "tpu" to a choice.
      compute: a function of the choice and the operands (trees of arrays); its result has one shape for all choices.
    """
    choices = {backend: choose(backend) for backend in _PLATFORMS}
    default = choices["tpu"]  # for platforms that JAX may have beside these
    others = {
        platform: partial(compute, choice)
        for backend, choice in choices.items()
        for platform in _PLATFORMS[backend]
        if choice != default
    }
    if not others:
        return compute(default, *operands)
    return lax.platform_dependent(*operands, default=partial(compute, default), **others)


def _limits(backend):
    return LIMITS.get(backend, _NO_LIMITS)
