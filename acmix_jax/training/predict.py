"""`--mode=predict`: the classes that a trained network sees in a stranger's pictures, as a table and a picture."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from acmix_jax.config import check_config, follow_data
from acmix_jax.data import photos
from acmix_jax.data.listing import LeftOut, images_in
from acmix_jax.data.photos import CorruptImage
from acmix_jax.errors import UserError, printable
from acmix_jax.evaluators import best_metric
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.run.progress import Progress
from acmix_jax.tasks import create_task
from acmix_jax.weights.names import input_channels

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


def predict_images(config, folder: Path, which: str, images: Path, out: Path) -> str:
    """Classifies images; writes predictions.csv and a contact sheet, predictions.png; returns a summary.

    Args:
      config: of the run; images are cropped and resized as in its evaluation.
      folder: its workdir, or a folder of weights.
      which: checkpoint "latest", "best" or a step.
      images: a file, or a folder with images at any depth. Corrupt ones are left out with a warning.
      out: the folder to write to.

    Raises:
      UserError: no such checkpoint or image; `out` cannot be written.
    """
    check_config(config)
    paths = _paths(images)
    facts = workdir.read_facts(folder)
    config = follow_data(config, facts["num_classes"])
    names = facts.get("classes") or [f"class {label}" for label in range(facts["num_classes"])]
    with Checkpoints(folder / "checkpoints", best_metric(config), read_only=True) as checkpoints:
        step, variables = checkpoints.read_variables(which)
    predictions = list(_predictions(config, variables, paths))
    if not predictions:
        raise UserError(f"none of the {len(paths):,} images in {printable(str(images))} can be read; see the warnings")
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [_write_table(predictions, names, out), _draw(predictions, names, out)]
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r} ({error}); set another --out=DIR") from error
    left_out = f", {len(paths) - len(predictions):,} left out" if len(predictions) < len(paths) else ""
    summary = f"{config.model} at step {step}: {len(predictions):,} images classified{left_out}"
    return "\n".join([summary, *(f"  {path}" for path in written)])


def _paths(images):
    """Files to read, by the name to show."""
    if images.is_file():
        return {printable(images.name): images}
    if not images.is_dir():
        raise UserError(
            f"--images={printable(str(images))} is neither a file nor a folder; set it to a file or a folder of images"
        )
    left_out = LeftOut()
    paths = {printable(name): images / name for name in _below(images, left_out)}
    if said := str(left_out):
        print(f"warning: left out of {printable(str(images))}: {said}", file=sys.stderr)
    if not paths:
        raise UserError(f"no images in {printable(str(images))}; set --images to a file or a folder of images")
    return paths


def _below(folder, left_out):
    root, name = str(folder.resolve().parent), folder.resolve().name
    return [path.removeprefix(f"{name}/") for path in images_in(root, name, left_out)]


def _predictions(config, variables, paths) -> Iterator[Prediction]:
    """Predictions of the images that can be read, in order; those beyond the contact sheet without their pixels."""
    task, channels = create_task(config), input_channels(variables["params"])
    apply = jax.jit(lambda variables, images: jax.nn.softmax(task.predict(variables, {"image": images})))
    variables, shown, batch_size = jax.device_put(variables), 0, min(config.batch_size, len(paths))
    progress = Progress(len(paths), 0, batch_size=1, unit="image")
    for done, batch in _batches(task, paths, channels, batch_size):
        for prediction in _classify(apply, variables, batch, batch_size):
            yield prediction if shown < SHOWN else prediction._replace(pixels=None)
            shown += 1
        progress.update(done, progress.rate(done), "classified")


def _batches(task, paths, channels, batch_size):
    """Yields the number of files read so far, and names and pixels of images of one shape that follow each other."""
    batch = []
    for done, (name, path) in enumerate(paths.items()):
        pixels = _pixels(task, path, name, channels)
        if batch and pixels is not None and (len(batch) == batch_size or pixels.shape != batch[0][1].shape):
            yield done, batch
            batch = []
        if pixels is not None:
            batch.append((name, pixels))
    if batch:
        yield len(paths), batch


def _pixels(task, path, name, channels):
    """The network's input, uint8 `[H, W, channels]`; None for an image that cannot be read."""
    try:
        photo = photos.read(path, name)._replace(channels=channels)
        return task.change({"image": photo}, None)["image"]
    except CorruptImage as error:
        print(f"warning: {error}; it is left out", file=sys.stderr)
        return None


def _classify(apply, variables, batch, batch_size):
    pixels = np.stack([pixels for _, pixels in batch])
    padding = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]  # one program for all batches
    probabilities = np.asarray(apply(variables, np.pad(pixels, padding)))[: len(batch)]
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
