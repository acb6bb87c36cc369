"""Time of each form of the operator, against the 3x3 convolution that it replaces, at the layers of ResNet-50.

python -m experiments.operator_speed --out=runs/operator_speed

All forms of one layer are measured in turns (A B C A B C ...), so that a busy moment of the machine hits them alike.
Writes operator_speed.csv: median and quartiles in milliseconds, forward alone, and forward with backward through a
loss that needs the output.
"""

import argparse
import csv
import platform
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax import ACmix
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.ops import neighborhood, shift

LAYERS = ((56, 64, 1), (28, 128, 1), (14, 256, 1), (7, 512, 1), (56, 128, 2), (28, 256, 2), (14, 512, 2))
"""Height and width, features and stride of the 3x3 layers of ResNet-50 at 224 x 224 pixels."""


def forms(features: int, stride: int) -> dict[str, nn.Module]:
    """The layers to compare, by name."""
    found = {"conv3x3": nn.Conv(features, (3, 3), stride, padding=1, use_bias=False)}
    for form in neighborhood.FORMS:
        attention = partial(LocalAttention, form=form)
        found[f"attention {form}"] = ACmix(features, stride=stride, attention=attention, paths="attention")
    for form in shift.FORMS:
        found[f"convolution {form}"] = ACmix(features, stride=stride, shift_form=form, paths="convolution")
    found["acmix"] = ACmix(features, stride=stride)
    return found


def programs(module: nn.Module, x: jax.Array) -> dict[str, tuple]:
    """Compiled forward and forward+backward passes with their arguments."""
    variables = module.init(jax.random.key(0), x)
    backward = jax.value_and_grad(lambda v, x: (module.apply(v, x) ** 2).sum(), argnums=(0, 1))
    passes = {"forward": module.apply, "forward+backward": backward}
    return {name: (jax.jit(f).lower(variables, x).compile(), variables, x) for name, f in passes.items()}


def measure(size: int, features: int, stride: int, batch: int, rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Milliseconds of each round, by (form, pass)."""
    x = jax.random.normal(jax.random.key(1), (batch, size, size, features), jnp.float32)
    compiled = {
        (form, name): program
        for form, module in forms(features, stride).items()
        for name, program in programs(module, x).items()
    }
    times = {key: [] for key in compiled}
    for turn in range(rounds + 1):
        for key, (program, *arguments) in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if turn:  # the first warms up
                times[key].append(1e3 * (time.perf_counter() - begin))
    return {key: np.array(values) for key, values in times.items()}


def main() -> None:
    """Measures all layers and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=len(LAYERS), help="measure only the first so many")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}"
    print(f"{device}, batch {arguments.batch}, float32; median ms (quartiles) of {arguments.rounds} rounds")
    with (arguments.out / "operator_speed.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["device", "size", "features", "stride", "batch", "form", "pass", "median_ms", "q1_ms", "q3_ms"]
        )
        for size, features, stride in LAYERS[: arguments.layers]:
            for (form, name), times in measure(size, features, stride, arguments.batch, arguments.rounds).items():
                low, middle, high = np.percentile(times, [25, 50, 75])
                row = [device, size, features, stride, arguments.batch, form, name]
                writer.writerow(row + [f"{x:.2f}" for x in (middle, low, high)])
                print(f"{features}@{size} s{stride}  {form:24} {name:17} {middle:8.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
