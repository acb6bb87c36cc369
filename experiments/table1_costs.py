"""Tables 1 and 8 of the paper: cost of Stage I and Stage II in parameters, multiply-adds and time.

python -m experiments.table1_costs --out=runs/table1

operators.csv (table 1) lists a 3x3 convolution, self-attention and ACmix at the sizes of ResNet-50's stages, counted in
closed form; models.csv (table 8) lists whole networks, counted from the program that JAX traces. Both also give the
time of each stage in a forward pass, measured by JAX's profiler and summed over threads. A fusion counts for the stage
of its last operation, and an operation that XLA added without a name for the rest. The measured form is the fastest
one, not the one that is counted; a convolution path that is composed to one convolution takes no time in Stage I.
Existing rows are not measured again.
Smoke scale: --models=acmix_resnet14_stem1 --image-size=32 --batch=1
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure

from acmix_jax import ACmix, create_model, list_models
from acmix_jax.analysis.complexity import PARTS, Complexity, complexity, operator_cost, part_of
from acmix_jax.benchmark.time_share import time_by_part
from acmix_jax.benchmark.timing import device_name
from acmix_jax.config import local_path
from acmix_jax.errors import check_choice, one_line_errors
from acmix_jax.layers.self_attention import SelfAttention
from experiments import results

MODELS = "resnet50,acmix_resnet50,san10,acmix_san10,pvt_tiny,acmix_pvt_tiny,swin_tiny,acmix_swin_tiny"
STAGES = ((64, 4), (128, 8), (256, 16), (512, 32))  # ResNet's: features, stride of the map
LABELS = dict(zip(PARTS, ("Stage I", "Stage II, attention", "Stage II, convolution", "rest"), strict=True))
COLORS = ("tab:gray", "tab:blue", "tab:orange", "lightgray")


def operator_costs(features: int, pixels: int) -> dict[str, Complexity]:
    """Table 1 in closed form: a 3x3 convolution, 7x7 attention with 4 heads, and both."""
    both = operator_cost(features, 4, pixels=pixels, outputs=pixels)
    alone = ({**part, "stage2_convolution": 0, "rest": 0} for part in both)
    convolution = dict.fromkeys(PARTS, 0) | {"stage1": 9 * features**2}
    return {
        "convolution": Complexity(convolution, {part: count * pixels for part, count in convolution.items()}),
        "self-attention": Complexity(*alone),
        "ACmix": both,
    }


def operators(features: int) -> dict[str, nn.Module]:
    """The layers of `operator_costs`."""
    return {
        "convolution": nn.Conv(features, (3, 3), use_bias=False),
        "self-attention": SelfAttention(features),
        "ACmix": ACmix(features),
    }


def stage_times(module: nn.Module, images: jax.Array) -> dict[str, float]:
    """Measures the milliseconds of a forward pass by stage."""
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    times = time_by_part(module.apply, variables, images, part_of=part_of)
    return {part: times.get(part, 0.0) for part in PARTS}


class _Layer(nn.Module):
    """A layer under the module name that `part_of` looks for."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.layer.clone(name="mixer", parent=self)(x)


def _columns(*setting: str) -> list[str]:
    return [*setting, *(f"{what}_{part}" for what in ("params", "macs", "ms") for part in PARTS), "device"]


def _row(setting: dict[str, Any], cost: Complexity, times: dict[str, float]) -> dict[str, Any]:
    numbers = {"params": cost.params, "macs": cost.macs, "ms": times}
    return setting | {f"{what}_{part}": number for what, parts in numbers.items() for part, number in parts.items()}


def measure(arguments: argparse.Namespace) -> tuple[results.Table, results.Table]:
    """Fills the tables of the operators and of the networks."""
    rng, size, batch = np.random.default_rng(0), arguments.image_size, arguments.batch
    here = {"batch": batch, "device": device_name()}
    layers = results.Table(arguments.out / "operators.csv", _columns("operator", "features", "size", "batch"))
    for features, stride in STAGES:
        side = -(-size // stride)
        x = rng.normal(size=(batch, side, side, features)).astype(np.float32)
        for name, cost in operator_costs(features, side**2).items():
            setting = {"operator": name, "features": features, "size": side, **here}
            if not layers.having(**setting):
                print(f"{name} {features}@{side}", file=sys.stderr)
                layers.add(_row(setting, cost, stage_times(_Layer(operators(features)[name]), x)))
    models = results.Table(arguments.out / "models.csv", _columns("model", "img_size", "batch"))
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    for name in arguments.models.split(","):
        setting = {"model": name, "img_size": size, **here}
        if not models.having(**setting):
            print(name, file=sys.stderr)
            models.add(_row(setting, complexity(name, size), stage_times(create_model(name), images)))
    return layers, models


def draw(layers: list[dict[str, str]], models: list[dict[str, str]], path: Path) -> None:
    """Draws two bars for each row: the shares of multiply-adds, and below them those of time."""
    figure = Figure(figsize=(12, 0.5 * max(len(layers), len(models)) + 1.2), layout="constrained")
    names = [[f"{row['operator']} {row['features']}@{row['size']}" for row in layers]]
    names.append([row["model"] for row in models])
    for axes, table, labels in zip(figure.subplots(1, 2), (layers, models), names, strict=True):
        for position, row in enumerate(table):
            for offset, what in ((-0.2, "macs"), (0.2, "ms")):
                values = np.array([float(row[f"{what}_{part}"]) for part in PARTS])
                shares = 100 * values / values.sum()
                for part, share, left, color in zip(PARTS, shares, np.cumsum(shares) - shares, COLORS, strict=True):
                    label = LABELS[part] if position == 0 and what == "macs" else None
                    axes.barh(position + offset, share, 0.36, left, color=color, label=label)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("upper bar: % of multiply-adds (derived)\nlower bar: % of time (measured)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=local_path, help="gets the tables and the picture")
    parser.add_argument("--models", default=MODELS, help="names, joined by commas")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    for name in arguments.models.split(","):
        check_choice("model", name, list_models())
    arguments.out.mkdir(parents=True, exist_ok=True)
    layers, models = measure(arguments)
    sizes = [-(-arguments.image_size // stride) for _, stride in STAGES]
    here = {"batch": arguments.batch, "device": device_name()}
    draw(
        [row for row in layers.having(**here) if int(row["size"]) in sizes],
        models.having(img_size=arguments.image_size, **here), arguments.out / "costs.png",
    )  # fmt: skip
    origin = "parameters and multiply-adds: derived; times: measured here"
    results.write_record(arguments.out, __doc__, origin)
    print(*(arguments.out / name for name in ("operators.csv", "models.csv", "costs.png")), sep="\n")


if __name__ == "__main__":
    main()
