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
from acmix_jax.ops.own_gradient import OwnGradient

# Each has `unsupported`, `forward` and `backward`, as described in gpu_kernel.py.
KERNELS = {
    "cuda": "acmix_jax.ops.neighborhood.gpu_kernel",
    "tpu": "acmix_jax.ops.neighborhood.tpu_kernel",
}


def kernel_attention(q, k, v, position, window_size, stride, dilation, interpret=None):
    """Neighborhood attention by a fused kernel.

    Where a kernel cannot compute the shapes or the types, and on backends without one, it is `tiled_attention`; the
    first time for each reason, a line on stderr says so for programs of this process's backend. The gradient has
    kernels; tangents and higher derivatives are those of `tiled_attention`.

    Under `jax.set_mesh`, each device computes its part of the batch. XLA cannot split a kernel: without a mesh, or if
    the batch does not divide over its devices, it gathers all arrays and every device computes the whole batch; under
    `jax.vmap` (batch_norm_groups), the batch is that of one call. JAX cannot lower a kernel in a program for several
    platforms at once (`jax.export` with more than one), and a `jax.shard_map` around it needs `check_vma=False`.

    Args:
      interpret: for tests, a platform of KERNELS, whose kernel programs for CPUs compute with plain JAX.
    """
    window = window_size, stride, dilation
    reasons = {platform: _unsupported(platform, q, k, *window) for platform in KERNELS}
    here = _platform()
    if interpret is None and (reason := reasons.get(here, "there is no kernel")):
        _warn(f"form 'kernel' of the attention is computed as 'tiled' in programs for {here}: {reason}")
    platforms = tuple(platform for platform, reason in reasons.items() if reason is None)
    if not platforms:
        return tiled_attention(q, k, v, position, *window)
    return _attend(window, platforms, interpret)(q, subtract_position(k, position), v)


@cache
def _attend(*static):
    window, *_ = static
    forward, backward = partial(_forward, *static), partial(_backward, *static)
    return OwnGradient(lambda *qkv: tiled_attention(*qkv, None, *window), forward, backward, arity=3)


def _forward(window, platforms, interpret, q, k, v):
    def attend(q, k, v):
        shapes = {p: jax.eval_shape(partial(_call, p, "forward", window), q, k, v)[1] for p in platforms}
        # Each kernel lays its log-sum-exps out in its own way: those of the other platforms stay zero.
        zeros = {platform: jnp.zeros(x.shape, x.dtype) for platform, x in shapes.items()}

        def by_kernel(platform, **options):
            def forward(*arrays):
                out, log_sum = _call(platform, "forward", window, *arrays, **options)
                return out, zeros | {platform: log_sum}

            return forward

        def by_tiled(*arrays):
            return tiled_attention(*arrays, None, *window), zeros

        return _by_platform(by_kernel, by_tiled, platforms, interpret, q, k, v)

    out, log_sums = _on_each_device(attend, q, k, v)
    return out, *(log_sums[platform] for platform in platforms)


def _backward(window, platforms, interpret, q, k, v, out, *log_sums_and_dout):
    *log_sums, dout = log_sums_and_dout

    def by_kernel(platform, **options):
        def backward(q, k, v, out, log_sums, dout):
            return _call(platform, "backward", window, q, k, v, out, log_sums[platform], dout, **options)

        return backward

    def by_tiled(q, k, v, out, log_sums, dout):
        return jax.vjp(lambda *qkv: tiled_attention(*qkv, None, *window), q, k, v)[1](dout)

    arrays = q, k, v, out, dict(zip(platforms, log_sums, strict=True)), dout
    return _on_each_device(partial(_by_platform, by_kernel, by_tiled, platforms, interpret), *arrays)


def _by_platform(by_kernel, by_tiled, platforms, interpret, *arrays):
    branches = {platform: by_kernel(platform) for platform in platforms}
    if interpret is not None:
        branches["cpu"] = by_kernel(interpret, interpret=True)
    return lax.platform_dependent(*arrays, default=by_tiled, **branches)


def _on_each_device(f, *arrays):
    """Calls f with the images of each device; all arrays have the batch first."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.auto_axes != mesh.axis_names or arrays[0].shape[0] % mesh.size:
        return f(*arrays)
    # Within the custom gradient, so that JAX never transposes it, which could add sums over the devices.
    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(f, in_specs=batch, out_specs=batch, check_vma=False)(*arrays)


def _call(platform, direction, window, *arrays, **options):
    with jax.enable_x64(False):  # Mosaic takes no integers of 64 bits; all floats of the kernels are named
        return getattr(_load(platform), direction)(*arrays, *window, **options)


def _unsupported(platform, q, k, *window):
    """Reason why the kernel of a platform is not used for these arrays, or None."""
    kernel = _load(platform)
    if not all(isinstance(n, int) for n in (*q.shape, *k.shape)):
        return "a symbolic shape"
    if 0 in q.shape:
        return "an empty array"
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
