"""Most probable classes of images, as a table and a contact sheet."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_jax.errors import printable

BEST, SHOWN, COLUMNS = 5, 60, 10  # classes of an image; pictures of the contact sheet, and those of one row


class Prediction(NamedTuple):
    """An image with its most probable classes.

    Attributes:
      name: path of the file below the folder, printable.
      pixels: what the network saw, uint8 `[H, W, C]`; None beyond the contact sheet.
      labels, probabilities: the best first.
    """

    name: str
    pixels: np.ndarray | None
    labels: list[int]
    probabilities: list[float]


def write(
    images: Iterable[tuple[str, np.ndarray]], probabilities_of: Callable[[np.ndarray], np.ndarray], batch_size: int,
    classes: Sequence[str], out: Path,
) -> list[Path]:  # fmt: skip
    """Classifies images; writes predictions.csv and a contact sheet, predictions.png.

    Args:
      images: names and pixels, uint8 `[H, W, C]`.
      probabilities_of: uint8 `[batch_size, H, W, C]` to float `[batch_size, K]`.
      classes: names of the classes.
      out: the folder to write to.
    """
    predictions = []
    for batch in _batches(images, batch_size):
        for prediction in _classify(probabilities_of, batch, batch_size):
            shown = len(predictions) < SHOWN
            predictions.append(prediction if shown else prediction._replace(pixels=None))
    if not predictions:
        return []
    return [_write_table(predictions, classes, out), _draw(predictions, classes, out)]


def _batches(images, batch_size) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yields names and pixels of images of one shape that follow each other."""
    batch = []
    for name, pixels in images:
        if batch and (len(batch) == batch_size or pixels.shape != batch[0][1].shape):
            yield batch
            batch = []
        batch.append((name, pixels))
    if batch:
        yield batch


def _classify(probabilities_of, batch, batch_size):
    pixels = np.stack([pixels for _, pixels in batch])
    padding = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]  # one program for all batches
    probabilities = np.asarray(probabilities_of(np.pad(pixels, padding)))[: len(batch)]
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :BEST]
    for (name, image), labels, values in zip(batch, best, probabilities, strict=True):
        yield Prediction(name, image, labels.tolist(), values[labels].tolist())


def _write_table(predictions, names, out):
    """A row for each image: its name, then class and probability of each of the best classes."""
    path = out / "predictions.csv"
    ranks = range(1, 1 + len(predictions[0].labels))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{what}{rank}" for rank in ranks for what in ("class", "probability"))])
        for prediction in predictions:
            pairs = zip(prediction.labels, prediction.probabilities, strict=True)
            cells = [cell for label, value in pairs for cell in (printable(names[label]), f"{value:.4f}")]
            writer.writerow([prediction.name, *cells])
    return path


def _draw(predictions, names, out):
    """The contact sheet: the first images as the network saw them, each with its best class and the probability."""
    from matplotlib.figure import Figure  # slow to import

    shown, path = predictions[:SHOWN], out / "predictions.png"
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.5 * columns + 0.3, 1.85 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for axes, prediction in zip(panels, shown, strict=False):
        image = prediction.pixels
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        name = printable(names[prediction.labels[0]]).replace("$", r"\$")  # no formula
        name = name if len(name) <= 18 else f"{name[:17]}…"
        axes.set_title(f"{name}\n{100 * prediction.probabilities[0]:.0f} %", fontsize=8)
    more = f"the first {len(shown)} of {len(predictions):,} images" if len(shown) < len(predictions) else None
    figure.suptitle(more, fontsize=8)
    figure.savefig(path, dpi=150)
    return path
