"""Tables 1 and 8 of the paper: what Stage I and Stage II cost, in parameters, multiply-adds and time.

python -m experiments.table1_costs --out=runs/table1

operators.csv (table 1) has a 3x3 convolution, self-attention and ACmix at the sizes of ResNet-50's stages, by the
closed formulas; models.csv (table 8) whole networks, counted from the program that JAX traces. Beside them the time of
each stage in a forward pass, measured by JAX's profiler and summed over threads. An operation that XLA fused with
others counts for the stage of the last one; one that XLA added without a name counts for the rest. The form that runs
is the fastest, not the one that is counted, and a convolution path that is composed to one convolution has no part in
Stage I. Rows that are there are not measured again.
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
from acmix_jax.errors import UserError, check_choice
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
        "self-attention": ACmix(features, paths="attention"),
        "ACmix": ACmix(features),
    }


def _times(module: nn.Module, images: jax.Array) -> dict[str, float]:
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    found = time_by_part(module.apply, variables, images, part_of=part_of)
    return {part: found.get(part, 0.0) for part in PARTS}


class _Layer(nn.Module):
    """A layer in the place where `part_of` looks for it."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.layer.clone(name="mixer", parent=self)(x)


def _columns(first: list[str]) -> list[str]:
    return [*first, *(f"{what}_{part}" for what in ("params", "macs", "ms") for part in PARTS), "device"]


def _numbers(cost: Complexity, times: dict[str, float]) -> list[Any]:
    return [*cost.params.values(), *cost.macs.values(), *times.values(), device_name()]


def measure(flags: argparse.Namespace) -> tuple[results.Table, results.Table]:
    """Both tables."""
    rng = np.random.default_rng(0)
    first = ["operator", "features", "size", "batch"]
    layers = results.Table(flags.out / "operators.csv", _columns(first))
    for features, stride in STAGES:
        size = -(-flags.image_size // stride)
        x = rng.normal(size=(flags.batch, size, size, features)).astype(np.float32)
        for name, cost in operator_costs(features, size**2).items():
            row = (name, features, size, flags.batch)
            if not layers.having(**dict(zip(first, row, strict=True)), device=device_name()):
                print(f"{name} {features}@{size}", file=sys.stderr)
                layers.add(*row, *_numbers(cost, _times(_Layer(operators(features)[name]), x)))
    first = ["model", "img_size", "batch"]
    models = results.Table(flags.out / "models.csv", _columns(first))
    images = rng.normal(size=(flags.batch, flags.image_size, flags.image_size, 3)).astype(np.float32)
    for name in flags.models.split(","):
        row = (name, flags.image_size, flags.batch)
        if not models.having(**dict(zip(first, row, strict=True)), device=device_name()):
            print(name, file=sys.stderr)
            models.add(*row, *_numbers(complexity(name, flags.image_size), _times(create_model(name), images)))
    return layers, models


def draw(layers: list[dict[str, str]], models: list[dict[str, str]], path: Path) -> None:
    """For each row, the shares of multiply-adds above and of time below."""
    figure = Figure(figsize=(12, 0.5 * max(len(layers), len(models)) + 1.2), layout="constrained")
    names = [[f"{row['operator']} {row['features']}@{row['size']}" for row in layers]]
    names.append([row["model"] for row in models])
    for axes, table, labels in zip(figure.subplots(1, 2), (layers, models), names, strict=True):
        for place, row in enumerate(table):
            for offset, what in ((-0.2, "macs"), (0.2, "ms")):
                values = np.array([float(row[f"{what}_{part}"]) for part in PARTS])
                shares = 100 * values / values.sum()
                for part, share, left, color in zip(PARTS, shares, np.cumsum(shares) - shares, COLORS, strict=True):
                    label = LABELS[part] if place == 0 and what == "macs" else None
                    axes.barh(place + offset, share, 0.36, left, color=color, label=label)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("upper bar: % of multiply-adds (derived)\nlower bar: % of time (measured)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="gets the tables and the picture")
    parser.add_argument("--models", default=MODELS, help="names, joined by commas")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    flags = parser.parse_args()
    try:
        for name in flags.models.split(","):
            check_choice("model", name, list_models())
        flags.out.mkdir(parents=True, exist_ok=True)
        layers, models = measure(flags)
        sizes = [-(-flags.image_size // stride) for _, stride in STAGES]
        here = {"batch": flags.batch, "device": device_name()}
        draw(
            [row for row in layers.having(**here) if int(row["size"]) in sizes],
            models.having(img_size=flags.image_size, **here), flags.out / "costs.png",
        )  # fmt: skip
        origin = "parameters and multiply-adds: derived; times: measured here"
        results.write(flags.out, __doc__, origin)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(*(flags.out / name for name in ("operators.csv", "models.csv", "costs.png")), sep="\n")


if __name__ == "__main__":
    main()
