"""Table 7 of the paper: ways to shift and sum, their accuracy and their speed.

python -m experiments.table7_shifts --out=runs/table7 --runs=runs/ablations

Tensor shifts and frozen group convolutions compute the same function of the same parameters, so they share one row of
accuracy and differ in speed only. The speed is that of the convolution's Stage II (fc, shift, sum) after the
projections, summed over the twelve layers of Swin-T, measured in turns: speed.csv and speed.png. Group convolutions are
computed as such; multiply_shift is a form of this code that equals N groups in value.

Small scale, the default: acmix_swin_micro_patch2 on Fashion-MNIST, one epoch, 3 seeds; about 85 minutes of one core for
the 15 runs. Full scale, the paper's: --config=configs/imagenet.py:acmix_swin_tiny --set data.dir=IMAGES. Smoke scale:
--config=configs/digits.py --seeds=1 --set num_epochs=0.05 --speed-image-size=28.
A stopped command continues when it is run again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from acmix_jax.benchmark.timing import compiled, device_name, in_turns, quartiles
from acmix_jax.errors import one_line_errors
from acmix_jax.ops import shift
from experiments import results
from experiments.ablation import parser_of, run_table

ROWS = {
    "shifts, not learned (one group)": {"acmix.shared_shift": True, "optimizer.frozen": "shift/kernel"},
    "learned from random values, one group": {"acmix.shared_shift": True, "acmix.shift_init": False},
    "learned from shifts, one group": {"acmix.shared_shift": True},
    "learned from random values, N groups": {"acmix.shift_init": False},
    "learned from shifts, N groups": {},
}

COLUMNS = ["implementation", "pass", "img_size", "batch", "ms", "ms_q1", "ms_q3", "device"]
LAYERS = ((96, 3, 4, 2), (192, 6, 8, 2), (384, 12, 16, 6), (768, 24, 32, 2))
"""Swin-T: channels, heads, stride of the map and layers of each stage."""


def _one_group(pieces, fc, kernel, heads):
    return jnp.repeat(shift.shift_taps(shift.mix_pieces(pieces, fc), kernel, form="group_conv"), heads, axis=-1)


def _n_groups(form):
    return lambda pieces, fc, kernel, heads: shift.shift_convolution(pieces, fc, None, kernel, form=form)


def _tensor_shifts(pieces, fc, kernel, heads):
    return jnp.repeat(shift.shift_and_sum(shift.mix_pieces(pieces, fc)), heads, axis=-1)


class Implementation(NamedTuple):
    """An implementation of the convolution's Stage II."""

    convolve: Callable[..., jax.Array]  # from pieces, fc, kernel and the number of heads
    shared: bool  # one kernel for all heads
    learned: bool  # the kernel gets a gradient


IMPLEMENTATIONS = {
    "tensor shifts": Implementation(_tensor_shifts, shared=True, learned=False),
    "group convolution, frozen": Implementation(_one_group, shared=True, learned=False),
    "group convolution, learned": Implementation(_one_group, shared=True, learned=True),
    "group convolution, N groups": Implementation(_n_groups("group_conv"), shared=False, learned=True),
    "multiply_shift, N groups": Implementation(_n_groups("multiply_shift"), shared=False, learned=True),
}


def measure(image_size: int, batch: int, rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Measures milliseconds `[rounds]` per batch by (implementation, pass), summed over all layers."""
    total = {}
    for channels, heads, stride, count in LAYERS:
        size, dim = -(-image_size // stride), channels // heads
        keys = jax.random.split(jax.random.key(channels), 2)
        pieces = jax.random.normal(keys[0], (batch, size, size, 3 * heads, dim))
        fc = jax.random.normal(keys[1], (3 * heads, 9)) / (3 * heads) ** 0.5
        programs = {}
        for name, (convolve, shared, learned) in IMPLEMENTATIONS.items():
            kernel = shift.shift_kernel(3, dim if shared else channels)

            def forward(pieces, fc, kernel, convolve=convolve, heads=heads):
                return convolve(pieces, fc, kernel, heads)

            def loss(pieces, fc, kernel, forward=forward):
                return (forward(pieces, fc, kernel) ** 2).sum()

            backward = jax.value_and_grad(loss, argnums=(0, 1, 2) if learned else (0, 1))
            programs[name, "forward"] = compiled(forward, pieces, fc, kernel)
            programs[name, "forward+backward"] = compiled(backward, pieces, fc, kernel)
        for key, times in in_turns(programs, rounds).items():
            total[key] = total.get(key, 0) + count * times
    return total


@one_line_errors()
def measure_speed(arguments: argparse.Namespace) -> None:
    """Writes speed.csv and speed.png; existing rows are not measured again."""
    table = results.Table(arguments.out / "speed.csv", COLUMNS)
    here = {"img_size": arguments.speed_image_size, "batch": arguments.speed_batch, "device": device_name()}
    if not table.having(**here):
        times = measure(arguments.speed_image_size, arguments.speed_batch, arguments.speed_rounds)
        for (name, way), values in times.items():
            low, middle, high = quartiles(values)
            table.add({"implementation": name, "pass": way, **here, "ms": middle, "ms_q1": low, "ms_q3": high})
        results.write_record(arguments.out, __doc__, "measured here")
    _draw(arguments.out / "speed.png", table.having(**here))
    print(f"{arguments.out / 'speed.csv'}\n{arguments.out / 'speed.png'}")


def _draw(path: Path, rows: list[dict[str, str]]) -> None:
    """Draws a bar with quartiles for each implementation and pass."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, way in enumerate(("forward", "forward+backward")):
        own = [row for row in rows if row["pass"] == way]
        low, middle, high = np.array([[float(row[x]) for x in ("ms_q1", "ms", "ms_q3")] for row in own]).T
        heights = np.arange(len(own)) + 0.4 * i - 0.2
        axes.barh(heights, middle, 0.38, xerr=(middle - low, high - middle), capsize=3, label=way)
    axes.set_yticks(range(len(own)), [row["implementation"] for row in own])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"ms for a batch of {rows[0]['batch']}, all convolution paths of Swin-T")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Runs the command line: accuracy, then speed."""
    parser = parser_of(__doc__)
    parser.add_argument("--speed-image-size", type=int, default=224)
    parser.add_argument("--speed-batch", type=int, default=1)
    parser.add_argument("--speed-rounds", type=int, default=3)
    arguments = parser.parse_args()
    run_table(arguments, __doc__, ROWS)
    measure_speed(arguments)


if __name__ == "__main__":
    main()
