"""`--mode=predict`: what a trained network sees in a stranger's pictures."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax

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
from acmix_jax.training.evaluate import explained
from acmix_jax.weights.names import input_channels


def predict_images(config, folder: Path, which: str, images: Path, out: Path) -> str:
    """Writes a table and pictures of what the network predicts for images, see `Task.show`; returns a summary.

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
    config = _like_training(follow_data(config, facts["num_classes"]), facts)
    classes, count = facts.get("classes", []), facts["num_classes"]
    classes = [*classes, *(f"class {label}" for label in range(len(classes), count))]  # outputs may outnumber the names
    with Checkpoints(folder / "checkpoints", best_metric(config), read_only=True) as checkpoints:
        step, variables = checkpoints.read_variables(which)
    task, read = create_task(config), []
    examples = _examples(task, paths, input_channels(variables["params"]), read)
    batch_size = min(config.batch_size, len(paths))
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the work
        with explained(config, folder, variables):
            written = task.show(jax.device_put(variables), examples, batch_size, classes, facts.get("colors"), out)
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r} ({error}); set another --out=DIR") from error
    if not read:
        raise UserError(f"none of the {len(paths):,} images in {printable(str(images))} can be read; see the warnings")
    left_out = f", {len(paths) - len(read):,} left out" if len(read) < len(paths) else ""
    summary = f"{config.model} at step {step}: {len(read):,} images predicted{left_out}"
    return "\n".join([summary, *(f"  {path}" for path in written)])


def _like_training(config, facts):
    """The config; where images had one size already in training, a copy that resizes to that."""
    height, width = facts.get("image_size", (0, 0))
    if config.task == "classification" and config.data.image_size == 0 and height == width:
        config = config.copy_and_resolve_references()
        config.data.image_size = height
    return config


def _paths(images):
    """Files to read, by the name to show."""
    if images.is_file():
        return {printable(images.name): images}
    if not images.is_dir():
        raise UserError(
            f"--images={printable(str(images))} is neither a file nor a folder; set it to a file or a folder of images"
        )
    left_out = LeftOut()
    paths = {printable(name): images / name for name in images_in(str(images.resolve()), "", left_out)}
    if said := str(left_out):
        print(f"warning: left out of {printable(str(images))}: {said}", file=sys.stderr)
    if not paths:
        raise UserError(f"no images in {printable(str(images))}; set --images to a file or a folder of images")
    return paths


def _examples(task, paths, channels, read) -> Iterator[tuple[str, dict]]:
    """Yields name and example of each image that can be read, in order; adds the names to `read`."""
    progress = Progress(len(paths), 0, batch_size=1, unit="image")
    for done, (name, path) in enumerate(paths.items(), start=1):
        try:
            photo = photos.read(path, name)._replace(channels=channels)
            example = task.change({"image": photo}, None)
        except CorruptImage as error:
            print(f"warning: {error}; it is left out", file=sys.stderr)
        else:
            read.append(name)
            yield name, example
        if done % 16 == 0 or done == len(paths):
            progress.update(done, progress.rate(done), "predicted")
