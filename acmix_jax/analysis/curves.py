"""Loss and metrics of a run by step, drawn from its metrics.jsonl."""

from pathlib import Path
from typing import Any


def write(rows: list[dict[str, Any]], title: str, folder: Path, main_metric: str) -> Path | None:
    """Draws the rows of a run's metrics.jsonl into `folder`; returns the path of curves.png, None without a loss.

    One panel shows the loss, one the main metric, and one each other metric that is logged both in training (`top1`)
    and evaluation (`eval_top1`).
    """
    from matplotlib.figure import Figure

    picture = folder / "curves.png"
    logged = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in logged if name == "loss" or (f"eval_{name}" in logged and name != main_metric)]
    names += [main_metric] if f"eval_{main_metric}" in logged else []
    if not names:
        return None
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, sorted(names, key=lambda name: name != "loss"), strict=True):  # the loss first
        _draw(axes, rows, name, "training batches, with augmentation", "-")
        _draw(axes, rows, f"eval_{name}", "test set", "o-")
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(picture, dpi=150)
    return picture


def _draw(axes, rows, name, label, style):
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
        if name.startswith("eval"):
            label += f", {points[-1][1]:.2f} at the end"
        axes.plot(*zip(*points, strict=True), style, label=label)
