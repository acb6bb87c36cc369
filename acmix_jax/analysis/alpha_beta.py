"""Learned weights of the attention and the convolution path by depth: alpha and beta (paper, figure 5)."""

import csv
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax

from acmix_jax.weights.names import block_of


class Layer(NamedTuple):
    """The two learned scalars of one ACmix layer."""

    name: str
    alpha: float
    beta: float

    @property
    def log_ratio(self) -> float | None:
        """log(alpha / beta); None if the signs differ and it does not exist."""
        return math.log(self.alpha / self.beta) if self.alpha * self.beta > 0 else None


def read(params: Any) -> list[Layer]:
    """Alpha and beta of each ACmix layer in `params`, in order of depth; blocks until the device is ready."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    names = [key.removesuffix("/alpha") for key in flat if key.endswith("/alpha")]
    values = jax.device_get({name: (flat[f"{name}/alpha"], flat[f"{name}/beta"]) for name in names})
    layers = [Layer(block_of(name), float(alpha), float(beta)) for name, (alpha, beta) in values.items()]
    return sorted(layers, key=lambda layer: [int(part) for part in re.findall(r"\d+", layer.name)])


def scalars(params: Any) -> dict[str, float]:
    """Alpha and beta by name, for logging: {"alpha/stage1_block1": ...}."""
    layers = read(params)
    return {f"alpha/{x.name}": x.alpha for x in layers} | {f"beta/{x.name}": x.beta for x in layers}


def from_scalars(row: dict[str, Any]) -> list[Layer]:
    """The inverse of `scalars`, from a row of metrics.jsonl."""
    names = [key.removeprefix("alpha/") for key in row if key.startswith("alpha/")]
    return [Layer(name, row[f"alpha/{name}"], row[f"beta/{name}"]) for name in names]


def write(layers: list[Layer], title: str, folder: Path) -> tuple[Path, Path]:
    """Writes alpha_beta.csv and alpha_beta.png into `folder` and returns their paths."""
    table, picture = folder / "alpha_beta.csv", folder / "alpha_beta.png"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["depth", "layer", "alpha", "beta", "log_alpha_over_beta"])
        writer.writerows([i, x.name, x.alpha, x.beta, x.log_ratio] for i, x in enumerate(layers, start=1))
    _plot(layers, title, picture)
    return table, picture


def short_name(layer: Layer) -> str:
    """Stage and block: "1.2" for stage1_block2."""
    return layer.name.replace("_block", ".").replace("stage", "")


def name_layers(axes, layers: list[Layer]) -> None:
    """Labels the horizontal axis of Matplotlib axes; the first layer is at 1."""
    axes.set_xticks(range(1, len(layers) + 1), [short_name(layer) for layer in layers])
    axes.set_xlabel("layer: stage.block, input to output")
    axes.tick_params(axis="x", labelrotation=0 if len(layers) <= 8 else 60)


def _plot(layers: list[Layer], title: str, path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import and not needed in training

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    depth = range(1, len(layers) + 1)
    left.plot(depth, [x.alpha for x in layers], "o-", color="tab:blue", label="alpha (self-attention)")
    left.plot(depth, [x.beta for x in layers], "s-", color="tab:orange", label="beta (convolution)")
    left.axhline(0.5, color="gray", linewidth=0.8, linestyle=":", label="default start, 0.5")
    left.set_ylabel("learned weight of the path")
    left.legend()
    right.axhline(0, color="gray", linewidth=0.8)
    ratios = [math.nan if x.log_ratio is None else x.log_ratio for x in layers]
    right.plot(depth, ratios, "o-", color="tab:green")
    right.set_ylabel("log(alpha / beta)")
    right.annotate("attention weighs more", (0.02, 0.97), xycoords="axes fraction", va="top", color="gray")
    right.annotate("convolution weighs more", (0.02, 0.03), xycoords="axes fraction", va="bottom", color="gray")
    right.margins(y=0.25)
    for axes in (left, right):
        name_layers(axes, layers)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
