"""Local attention by the fused kernel of the backend, or by XLA's tiled form where there is none.

The backend is that of the lowering, not of the process: one traced program can be compiled for several.
"""

import importlib
import sys
from functools import cache, partial

import jax
import jax.extend
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from acmix_jax.ops.neighborhood.tiled import tiled_attention
from acmix_jax.ops.neighborhood.tiles import subtract_position

# Each has `unsupported`, `forward` and `backward`, as described in gpu_kernel.py.
KERNELS = {"cuda": "acmix_jax.ops.neighborhood.gpu_kernel"}


def kernel_attention(q, k, v, position, window_size, stride, dilation, interpret=None):
    """Neighborhood attention by a fused kernel.

    Where a kernel cannot compute the shapes or the types, and on backends without one, it is `tiled_attention`; the
    first time for each reason, a line on stderr says so. No forward-mode derivative (`jax.jvp`) where a kernel can.

    Under `jax.set_mesh`, each device computes its part of the batch. XLA cannot split a kernel: without a mesh, or if
    the batch does not divide over its devices, it gathers all arrays and every device computes the whole batch. JAX
    cannot lower a kernel in a program for several platforms at once (`jax.export` with more than one).

    Args:
      interpret: for tests, a platform of KERNELS, whose kernel programs for CPUs compute with plain JAX.
    """
    window = window_size, stride, dilation
    reasons = {platform: _unsupported(platform, q, k, *window) for platform in KERNELS}
    here = _platform()
    if interpret is None and (reason := reasons.get(here, f"there is no kernel for {here}")):
        _warn(f"form 'kernel' of the attention is computed as 'tiled': {reason}")
    platforms = tuple(platform for platform, reason in reasons.items() if reason is None)
    if not platforms:
        return tiled_attention(q, k, v, position, *window)
    return _attend(q, subtract_position(k, position), v, window, platforms, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attend(q, k, v, window, platforms, interpret):
    return _forward(q, k, v, window, platforms, interpret)[0]


def _forward(q, k, v, window, platforms, interpret):
    out, lse = _by_platform("forward", _tiled_forward, (q, k, v), window, platforms, interpret)
    return out, (q, k, v, out, lse)


def _backward(window, platforms, interpret, residuals, dout):
    return _by_platform("backward", _tiled_backward, (*residuals, dout), window, platforms, interpret)


_attend.defvjp(_forward, _backward)


def _by_platform(direction, default, arrays, window, platforms, interpret):
    """Computes "forward" or "backward" by the kernel of the platform, on each device for itself."""

    def kernel(platform, **options):
        return lambda *arrays: getattr(_load(platform), direction)(*arrays, *window, **options)

    branches = {platform: kernel(platform) for platform in platforms}
    if interpret is not None:
        branches["cpu"] = kernel(interpret, interpret=True)
    run = partial(lax.platform_dependent, default=lambda *arrays: default(*arrays, *window), **branches)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.auto_axes != mesh.axis_names or arrays[0].shape[0] % mesh.size:
        return run(*arrays)
    # Within the custom gradient: around it, its own transposition would add sums over devices.
    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(run, in_specs=batch, out_specs=batch, check_vma=False)(*arrays)


def _tiled_forward(q, k, v, *window):
    out = tiled_attention(q, k, v, None, *window)
    return out, jnp.zeros((q.shape[0], q.shape[3], q.shape[1] * q.shape[2]), jnp.float32)  # in place of the log-sum-exp


def _tiled_backward(q, k, v, out, lse, dout, *window):
    _, pull_back = jax.vjp(lambda q, k, v: tiled_attention(q, k, v, None, *window), q, k, v)
    return pull_back(dout)


def _unsupported(platform, q, k, *window):
    """Reason why the kernel of a platform is not used for these arrays, or None."""
    kernel = _load(platform)
    return "this jax has no Pallas for it" if kernel is None else kernel.unsupported(q, k, *window)


@cache
def _load(platform):
    """The module of a platform's kernel, imported at first use; None if jax lacks what it needs."""
    try:
        return importlib.import_module(KERNELS[platform])
    except ImportError:
        return None


def _platform():
    """Platform of this process, by its name in `lax.platform_dependent`."""
    backend = jax.extend.backend.get_backend()
    if backend.platform == "gpu":
        return "rocm" if "rocm" in backend.platform_version.lower() else "cuda"
    return backend.platform


@cache
def _warn(message):
    print(f"warning: {message}", file=sys.stderr)
