"""How a run went: loss and accuracy by step, from its metrics.jsonl."""

from pathlib import Path

from acmix_jax.run.metrics import read_metrics


def write(title: str, folder: Path) -> Path | None:
    """Draws curves.png of the run in `folder` and returns its path; None if nothing was logged yet."""
    from matplotlib.figure import Figure

    rows, picture = read_metrics(folder), folder / "curves.png"
    if not rows:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, rows, "loss", "training batches, with augmentation", "-")
    _draw(right, rows, "top1", "training batches, with augmentation", "-")
    _draw(right, rows, "eval_top1", "test set", "o-")
    left.set_ylabel("loss")
    right.set_ylabel("top-1 accuracy, %")
    for axes in (left, right):
        axes.set_xlabel("step")
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
