"""Devices that are not here, to compile for, and facts that the compiler tells about a program for them.

    mesh = mesh_for("v5e:2x2", batch_size=256)
    with jax.set_mesh(mesh):
        compiled = jax.jit(f).lower(*shapes_with_shardings).compile()
    facts_of(compiled, "v5e:2x2")

The result cannot run. Nothing is measured: memory, bytes and operations are counted by the compiler, times are its
estimate. TPUs need libtpu (`pip install "jax[tpu]"`), GPUs `pip install "jax[cuda12]"`; neither needs a driver. Set
JAX_PLATFORMS=cpu, so that JAX looks for no device. A compiler that aborts ends the process: experiments/compile_for.py
starts one for each program.
"""

import importlib.util
import math
import os
import re
from collections import Counter
from typing import NamedTuple

import jax
from jax.experimental import topologies

from acmix_jax.benchmark.timing import peak_memory_mb
from acmix_jax.devices.sharding import make_mesh
from acmix_jax.errors import UserError, check_choice

TPUS = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GiB of memory a chip
GPUS = {  # what XLA's compiler asks a device for; of its gpu_specs/h100_sxm
    "h100": """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 85520809984 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3" """,
}
TARGETS = ("cpu", "h100", "h100x8", "v4:2x2x2", "v5e:1x1", "v5e:2x2", "v5e:4x4", "v5p:2x2x1", "v6e:2x2")  # examples
_GPUS_A_HOST = 8
_PLUGINS = {  # backend: modules that have its compiler, one of which is enough; what to install
    "tpu": (("libtpu",), '"jax[tpu]"'),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), '"jax[cuda12]"'),
}
_COLLECTIVE = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


class Facts(NamedTuple):
    """Facts that the compiler tells of a program, for each device; None where it tells nothing.

    Attributes:
      arguments_gib, results_gib, temp_gib: memory of the arguments, of the results and of arrays in between.
      total_gib: their sum without what results share with donated arguments.
      fits: whether that is less than the device's memory; None for a CPU.
      accessed_gb: memory read and written, in 10^9 bytes.
      gflops: arithmetic operations, in 10^9.
      estimate_ms: estimated time of the operations whose time the compiler knows (TPU only). It does not know that of
        loops, hand-written kernels and collectives.
      unknown_ops: number of the other operations. Exact for an estimate below one second.
      collectives: such as "51 all-reduce, 2 all-gather"; empty for none.
    """

    arguments_gib: float
    results_gib: float
    temp_gib: float
    total_gib: float
    fits: bool | None
    accessed_gb: float | None
    gflops: float | None
    estimate_ms: float | None
    unknown_ops: int | None
    collectives: str


def backend_of(target: str) -> str:
    """The backend of a target: "cpu", "gpu" or "tpu".

    Args:
      target: a TPU slice such as "v5e:4x4", 16 chips of four hosts; "h100", or several of them such as "h100x8"; "cpu",
        the devices of this process, for a first try.

    Raises:
      UserError: there is no such target, with the nearest ones.
    """
    if target == "cpu":
        return "cpu"
    if re.fullmatch(rf"({'|'.join(GPUS)})(x[1-9]\d*)?", target):
        return "gpu"
    if not re.fullmatch(rf"({'|'.join(TPUS)}):\d+(x\d+)+", target):
        check_choice("target", target, TARGETS)
    return "tpu"


def check_target(target: str) -> None:
    """Raises a UserError for an unknown target, and for one whose compiler is not installed."""
    modules, package = _PLUGINS.get(backend_of(target), ((), ""))
    if modules and not any(map(importlib.util.find_spec, modules)):
        raise UserError(f"target {target} needs {modules[0]}, which is not installed; pip install {package}")


def devices_of(target: str) -> list[jax.Device]:
    """Devices of a target (see `backend_of`), to compile for; those of a TPU or GPU cannot run anything.

    Raises:
      UserError: the target is unknown, there is no slice of this shape, or its compiler is not installed.
    """
    check_target(target)
    backend = backend_of(target)
    if backend == "cpu":
        return jax.devices("cpu")
    try:
        topology = _tpu_slice(target) if backend == "tpu" else _gpus(target)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"target {target} is not possible: {reason}; use one such as {', '.join(TARGETS)}") from error
    return topology.devices


def _tpu_slice(target):
    generation, _, shape = target.partition(":")
    # Read by libtpu, which would otherwise ask the cloud's metadata server, and lock out a second process.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": {"v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}[generation],
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
    }.items():
        os.environ.setdefault(name, value)
    options = {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, not two
    if math.prod(map(int, shape.split("x"))) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    return topologies.get_topology_desc(platform="tpu", topology_name=target, **options)


def _gpus(target):
    name, _, count = target.partition("x")
    count = int(count or 1)
    each = count if count <= _GPUS_A_HOST else math.gcd(count, _GPUS_A_HOST)
    shape = f"1x{count // each}x{each}"  # partitions, hosts, devices of a host
    return topologies.get_topology_desc(platform="cuda", topology_name="", target_config=GPUS[name], topology=shape)


def mesh_for(target: str, batch_size: int, fsdp: int = 1) -> jax.sharding.Mesh:
    """The mesh ("data", "fsdp") of a target's devices; raises like `devices_of` and `sharding.make_mesh`."""
    return make_mesh(batch_size, fsdp, devices_of(target))


def memory_gib(target: str) -> float | None:
    """Memory of one device of a target; None for a CPU."""
    backend = backend_of(target)
    if backend == "gpu":
        return int(re.search(r"device_memory_size: (\d+)", GPUS[target.partition("x")[0]])[1]) / 2**30
    return TPUS[target.partition(":")[0]] if backend == "tpu" else None


def facts_of(compiled: jax.stages.Compiled, target: str) -> Facts:
    """Reads what the compiler says of a program for a target."""
    memory, cost, limit = compiled.memory_analysis(), compiled.cost_analysis() or {}, memory_gib(target)
    total = peak_memory_mb(compiled) / 2**10
    sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    collectives = Counter(re.findall(_COLLECTIVE, compiled.as_text()))
    return Facts(
        *(size / 2**30 for size in sizes),
        total,
        None if limit is None else total <= limit,
        *(cost[name] / 1e9 if name in cost else None for name in ("bytes accessed", "flops")),
        *estimate(cost.get("optimal_seconds")),
        ", ".join(f"{count} {kind}" for kind, count in collectives.most_common()),
    )


def estimate(optimal_seconds: float | None) -> tuple[float | None, int | None]:
    """Milliseconds and number of operations of unknown time, from the compiler's "optimal_seconds".

    That is a sum in which each operation of unknown time counts as -1 s.
    """
    if optimal_seconds is None:
        return None, None
    unknown = max(0, math.ceil(-optimal_seconds))
    return 1e3 * (optimal_seconds + unknown), unknown
