"""Cycles, filled slots and spills of the TPU kernels of local attention, from the schedule that the compiler makes.

python -m experiments.kernel_cycles --out=runs/kernel_cycles

Compiles the forward and the backward kernel of each layer of ResNet-50 (64 images) and of its layers on detection maps
of 800 x 1344 pixels (2 images) for one TPU v5e, without one (pip install "jax[tpu]"). Writes kernel_cycles.csv after
each kernel, kernel_cycles.png and record.json; rows that are there are not compiled again. Counts, not measurements:
cycles do not hold waits for memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from acmix_jax.benchmark import devices, tpu_schedule
from acmix_jax.config import local_path
from acmix_jax.errors import UserError, check_choice, one_line_errors
from acmix_jax.ops.neighborhood import tpu_kernel
from experiments import results
from experiments.compile_for import compiler_of

TARGET, CYCLES_PER_MS = "v5e:1x1", 1.5e6
WINDOW_SIZE, HEADS = 7, 4


class Layer(NamedTuple):
    """A layer of ResNet-ACmix: its channels, the map of its input, its stride and the batch."""

    channels: int
    height: int
    width: int
    stride: int
    batch: int

    def __str__(self):
        size = self.height if self.height == self.width else f"{self.height}x{self.width}"
        return f"{self.channels}@{size}" + (f"s{self.stride}" if self.stride > 1 else "")


def _layers():
    for height, width, batch in ((56, 56, 64), (200, 336, 2)):
        for stage in range(4):
            size = [-(-n // 2**stage) for n in (height, width)]
            if stage > 0:
                before = [-(-n // 2 ** (stage - 1)) for n in (height, width)]
                yield Layer(64 * 2**stage, *before, 2, batch)
            yield Layer(64 * 2**stage, *size, 1, batch)


LAYERS = {str(layer): layer for layer in _layers()}
COLUMNS = ["layer", "batch", "dtype", "kernel", "bundles", "cycles", "ms", "MXU", "VALU", "VSTORE", "spills", "reloads",
           "compile_s", "compiler"]  # fmt: skip


def compile_kernel(layer: Layer, kernel: str, dtype: str) -> None:
    """Compiles one kernel in this process, between maps as XLA lays them out for convolutions, `[H, W, B, C]`."""
    here = jax.sharding.SingleDeviceSharding(devices.devices_of(TARGET)[0])
    window = WINDOW_SIZE, layer.stride, 1

    def heads(x):
        return x.transpose(2, 0, 1, 3).reshape(x.shape[2], *x.shape[:2], HEADS, -1)

    def flat(x):
        return x.reshape(*x.shape[:3], -1).transpose(1, 2, 0, 3)

    def forward(q, k, v):
        out, log_sum = tpu_kernel.forward(heads(q), heads(k), heads(v), *window)
        return flat(out), log_sum

    def backward(q, k, v, log_sum, dout):
        arrays = heads(q), heads(k), heads(v), None, log_sum, heads(dout)
        return tuple(map(flat, tpu_kernel.backward(*arrays, *window)))

    def shape(height, width):
        return jax.ShapeDtypeStruct((height, width, layer.batch, layer.channels), dtype, sharding=here)

    k = shape(layer.height, layer.width)
    q = shape(*(-(-n // layer.stride) for n in (layer.height, layer.width)))
    if kernel == "forward":
        jax.jit(forward).lower(q, k, k).compile()
    else:
        _, log_sum = jax.eval_shape(forward, q, k, k)
        log_sum = jax.ShapeDtypeStruct(log_sum.shape, log_sum.dtype, sharding=here)
        jax.jit(backward).lower(q, k, k, log_sum, q).compile()


def count(layer: Layer, kernel: str, dtype: str) -> dict:
    """Compiles one kernel in a process of its own, whose compiler dumps the schedule; returns the row."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        flags = {"LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "experiments.kernel_cycles", f"--job={layer},{kernel},{dtype}"]
        child = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags)
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise UserError(f"{layer} {kernel} ended with code {child.returncode}: {reason}")
        seconds = time.perf_counter() - start
        schedules = tpu_schedule.read_schedules(Path(folder))
    schedule = max(schedules, key=lambda schedule: schedule.bundles)  # the others are copies
    counts = {name: getattr(schedule, name) for name in ("bundles", "cycles", "spills", "reloads")}
    ms = None if schedule.cycles is None else schedule.cycles / CYCLES_PER_MS
    slots = {name: schedule.filled[name] for name in ("MXU", "VALU", "VSTORE")}
    return {"layer": layer, "batch": layer.batch, "dtype": dtype, "kernel": kernel, **counts, "ms": ms, **slots,
            "compile_s": seconds, "compiler": compiler_of(TARGET)}  # fmt: skip


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draws the milliseconds of each layer's two kernels; those of unknown cycles have no bar."""
    rows = [row for row in rows if row["ms"]]
    names = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(2 + 0.7 * max(4, len(names)), 3.5), layout="constrained")
    axes = figure.subplots()
    for side, kernel in ((-0.2, "forward"), (0.2, "backward")):
        chosen = [row for row in rows if row["kernel"] == kernel]
        places = [names.index(row["layer"]) + side for row in chosen]
        bars = axes.bar(places, [float(row["ms"]) for row in chosen], 0.38, label=kernel)
        axes.bar_label(bars, [f"{float(row['ms']):.2f}" for row in chosen], fontsize="x-small")
    batches = {row["layer"]: row["batch"] for row in rows}
    labels = [name.replace("@", "@\n") + f"\n{batches[name]} images" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize="x-small")
    axes.set_ylabel("ms by cycles at 1.5 GHz")
    axes.set_title(
        f"Local attention's kernels on a TPU v5e, counted in the schedule of {rows[0]['compiler']}", fontsize="small"
    )
    axes.legend()
    figure.savefig(path, dpi=150)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(LAYERS), help="names such as 64@56,128@56s2, joined by commas")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=local_path, default=Path("runs/kernel_cycles"), help="gets table and picture")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        name, kernel, dtype = arguments.job.split(",")
        jax.config.update("jax_enable_compilation_cache", False)
        return compile_kernel(LAYERS[name], kernel, jnp.dtype(dtype))
    devices.check_target(TARGET)
    names = arguments.layers.split(",")
    for name in names:
        check_choice("layer", name, LAYERS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = results.Table(arguments.out / "kernel_cycles.csv", COLUMNS)
    jobs = [(name, kernel) for name in names for kernel in ("forward", "backward")]
    for number, (name, kernel) in enumerate(jobs, 1):
        if not table.having(layer=name, kernel=kernel, dtype=arguments.dtype, compiler=compiler_of(TARGET)):
            table.add(row := count(LAYERS[name], kernel, arguments.dtype))
            ms = "cycles unknown" if row["ms"] is None else f"{row['ms']:.3f} ms"
            print(f"{number} of {len(jobs)}: {name} {kernel}: {ms}, {row['spills']} spills", flush=True)
    if any(row["ms"] for row in table.rows):
        draw(table.rows, arguments.out / "kernel_cycles.png")
    results.write_record(arguments.out, __doc__, "counted in the schedule of the TPU's compiler, not measured")


if __name__ == "__main__":
    main()
