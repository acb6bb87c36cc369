"""Time and error of local attention's forms on this machine's GPU, and the time of each kernel of form "kernel".

python -m experiments.kernel_times --out=runs/kernel_times

The attention alone, without Stage I, at the layers of ResNet-50 at 224 x 224 pixels. Each form's value and gradient are
first compared with the definition in float32, on four images; then all are measured in turns. JAX's profiler gives the
times of the single kernels. Writes kernel_times.csv after each layer, kernel_times.png and record.json. Needs the base
dependencies and matplotlib. It has not been tried on a TPU.
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from acmix_jax.benchmark.time_share import PROFILING_OPTIONS
from acmix_jax.benchmark.timing import Program, compile_all, compiled, device_name, in_turns, parser_of, quartiles
from acmix_jax.errors import check_choice, one_line_errors
from acmix_jax.ops.neighborhood import neighborhood_attention
from experiments import results
from experiments.operator_speed import LAYERS, Layer

RESNET = {str(layer).removeprefix("resnet "): layer for layer in LAYERS if layer.family == "resnet"}
FORMS, HEADS, CHECKED_IMAGES = ("kernel", "tiled", "recomputed"), 4, 4
WAYS = ("forward", "forward+backward")
KERNELS = ("forward_kernel", "backward_kernel", "dq_kernel", "dkv_kernel")  # in their names in the profile


class Row(NamedTuple):
    """A row of the table; `pass_` is one of WAYS, or of KERNELS for the time of one kernel."""

    layer: str
    batch: int
    dtype: str
    form: str
    pass_: str
    ms: float
    ms_q1: float
    ms_q3: float
    memory_mb: float | None
    error: float | None
    compile_s: float | None
    device: str


def arrays_of(layer: Layer, batch: int, dtype: str) -> tuple[jax.Array, ...]:
    """Random q, k, v, and the gradient of the result."""
    size, outputs = layer.size, -(-layer.size // layer.fields["stride"])
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (outputs, size, size, outputs)
    return tuple(
        jax.random.normal(key, (batch, n, n, HEADS, layer.features // HEADS), dtype)
        for key, n in zip(keys, sizes, strict=True)
    )


def passes(form: str, stride: int) -> dict[str, Callable[..., Any]]:
    """The attention, and its value with the gradients of q, k and v, as functions of `arrays_of`."""
    attend = partial(neighborhood_attention, stride=stride, form=form)

    def backward(q, k, v, dout):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(dout)

    return dict(zip(WAYS, (lambda q, k, v, _: attend(q, k, v), backward), strict=True))


def programs(layer: Layer, forms: list[str], batch: int, dtype: str) -> dict[tuple[str, str], Callable[[], Program]]:
    """Compile what is measured of one layer, by form and pass; pass "check" is for `error`."""
    arrays, few = arrays_of(layer, batch, dtype), arrays_of(layer, CHECKED_IMAGES, dtype)
    waiting = {("reference", "check"): partial(_compiled_reference, layer, few)}
    for form in forms:
        ways = passes(form, layer.fields["stride"])
        waiting |= {(form, way): partial(compiled, f, *arrays) for way, f in ways.items()}
        waiting[form, "check"] = partial(compiled, ways["forward+backward"], *few)
    return waiting


def _compiled_reference(layer, arrays):
    """The definition, exact in float32."""
    with jax.default_matmul_precision("highest"):
        f = passes("reference", layer.fields["stride"])["forward+backward"]
        return compiled(f, *(x.astype(jnp.float32) for x in arrays))


def error(program: Program, reference: Program) -> float:
    """The largest relative error, ||x - y|| / ||y||, of the value and the gradients."""
    pairs = zip(program.run(), reference.run(), strict=True)
    return float(np.max([jnp.linalg.norm((x - y).ravel()) / jnp.linalg.norm(y.ravel()) for x, y in pairs]))


def times_by_kernel(f: Callable[..., Any], arrays: tuple[jax.Array, ...], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each of KERNELS in each of `rounds` runs of `f(*arrays)`."""
    program = jax.jit(f).lower(*arrays).compile(compiler_options=PROFILING_OPTIONS.get(jax.default_backend()))
    jax.block_until_ready(program(*arrays))
    times = defaultdict(list)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                jax.block_until_ready(program(*arrays))
            total: Counter = Counter()
            for path in Path(folder).rglob("*.xplane.pb"):
                for name, milliseconds in _events(path):
                    total.update({kernel: milliseconds for kernel in KERNELS if kernel in name})
        for kernel, milliseconds in total.items():
            times[kernel].append(milliseconds)
    return times


def _events(path):
    """Yields what an accelerator ran, name and milliseconds."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        lines = plane.lines if plane.name.startswith("/device:") else ()
        for line in lines:
            if line.name.startswith(("Stream", "XLA Ops")):  # of a GPU, of a TPU
                yield from ((event.name, event.duration_ns / 1e6) for event in line.events)


def measure(name: str, of_layer: dict[tuple[str, str], Program], arguments: argparse.Namespace) -> Iterator[Row]:
    """Measures one layer's programs and yields its rows."""
    layer, batch, dtype = RESNET[name], arguments.batch, arguments.dtype
    forms = [form for form, way in of_layer if way == WAYS[0]]
    errors = {form: error(of_layer[form, "check"], of_layer["reference", "check"]) for form in forms}
    timed = {key: program for key, program in of_layer.items() if key[1] in WAYS}
    for (form, way), times in in_turns(timed, arguments.rounds).items():
        low, middle, high = quartiles(times)
        program = timed[form, way]
        yield Row(
            name, batch, dtype, form, way, middle, low, high, program.peak_memory_mb,
            errors[form], program.compile_s, device_name(),
        )  # fmt: skip
    if "kernel" in forms:
        f = passes("kernel", layer.fields["stride"])["forward+backward"]
        for kernel, times in times_by_kernel(f, arrays_of(layer, batch, dtype), arguments.rounds).items():
            low, middle, high = quartiles(np.array(times))
            yield Row(name, batch, dtype, "kernel", kernel, middle, low, high, None, None, None, device_name())


def draw(rows: list[Row], path: Path) -> None:
    """Draws the time of each form by layer, forward and forward with backward."""
    names, forms = (list(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("layer", "form"))
    figure = Figure(figsize=(2 + 1.2 * max(3, len(names)), 6.5), layout="constrained")
    for axes, way in zip(figure.subplots(2, sharex=True), WAYS, strict=True):
        for i, form in enumerate(forms):
            chosen = [row for row in rows if (row.form, row.pass_) == (form, way)]
            places = [names.index(row.layer) + (i - (len(forms) - 1) / 2) * 0.8 / len(forms) for row in chosen]
            bars = axes.bar(places, [row.ms for row in chosen], 0.76 / len(forms), label=form)
            axes.bar_label(bars, [f"{row.ms:.2g}" for row in chosen], fontsize="x-small")
        axes.set_yscale("log")
        axes.set_ylabel(f"{way}, ms")
        axes.margins(y=0.15)
    axes.set_xticks(range(len(names)), names)
    axes.legend(fontsize="small")
    figure.suptitle(f"Local attention, {rows[0].batch} images, {rows[0].dtype}, {rows[0].device}", fontsize="medium")
    figure.savefig(path, dpi=150)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--layers", default=",".join(RESNET), help='names such as "64@56,128@56 s2"')
    parser.add_argument("--forms", default=",".join(FORMS), help="of the attention, joined by commas")
    arguments = parser.parse_args()
    names, forms = arguments.layers.split(","), arguments.forms.split(",")
    for name in names:
        check_choice("layer", name, RESNET)
    for form in forms:
        check_choice("form of attention", form, FORMS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name()}; batch {arguments.batch}, {arguments.dtype}; median of {arguments.rounds} rounds")
    waiting = {}
    for name in names:
        of_layer = programs(RESNET[name], forms, arguments.batch, arguments.dtype)
        waiting |= {(name, *key): compile_one for key, compile_one in of_layer.items()}
    compiled_programs = compile_all(waiting)
    rows: list[Row] = []
    for name in names:
        of_layer = {key[1:]: program for key, program in compiled_programs.items() if key[0] == name}
        measured = list(measure(name, of_layer, arguments))
        for row in measured:
            facts = "" if row.error is None else f"error {row.error:.1e}, {row.memory_mb:,.0f} MB"
            print(f"{name:10} {row.form:10} {row.pass_:16} {row.ms:8.3f} ms  {facts}".rstrip(), flush=True)
        rows += measured
        results.write_table(arguments.out / "kernel_times.csv", rows)
        results.write_record(arguments.out, __doc__, "measured here")
    draw(rows, arguments.out / "kernel_times.png")


if __name__ == "__main__":
    main()
