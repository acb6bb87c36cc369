"""From a named data set to batches, through Grain. Which images a batch holds, and how each of them is changed, follows
from the seed and the number of the step alone: not from the number of processes, workers or threads.

A batch is a dict of NumPy arrays, this process's share of the global batch: "image" uint8 `[B, H, W, C]`, "label" and
"index" (place in the source) int32 `[B]`, and in evaluation "mask" float32 `[B]`, 0 for rows that only fill up the last
batch. With `damaged="skip"`, "skipped" int32 `[B]` counts the damaged images that each row stands for.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

import grain
import jax
import numpy as np

from acmix_jax.data import augment, digits, fashion_mnist
from acmix_jax.data.array_records import RecordSource
from acmix_jax.data.folder import FolderSource
from acmix_jax.data.photos import DamagedImage
from acmix_jax.data.rand_augment import rand_augment
from acmix_jax.data.tfds import TfdsSource
from acmix_jax.errors import UserError, check_choice

SOURCES = {
    "digits": digits.load, "fashion_mnist": fashion_mnist.load,
    "folder": lambda split, directory: FolderSource(directory, split),
    "records": lambda split, directory: RecordSource(directory, split),
}  # fmt: skip

grain.config.update("py_traceback_filtering", "off")  # it would add lines to the messages of our errors
_ENDLESS = 2**62  # rows; Grain wants a length


def open_source(config, split: str):
    """The random-access examples of `config.source`, split "train" or "test".

    Raises:
      UserError: unknown source, absent files, or more classes than `config.num_classes`.
    """
    if config.source.startswith("tfds:"):
        source = TfdsSource(config.source.removeprefix("tfds:"), split, config.dir)
    else:
        check_choice("data source", config.source, [*SOURCES, "tfds:NAME"])
        source = SOURCES[config.source](split, config.dir)
    if source.num_classes > config.num_classes:
        raise UserError(f"{config.source} has {source.num_classes} classes; set --config.data.num_classes to that")
    if source.num_classes < config.num_classes and split == "train":
        print(
            f"warning: --config.data.num_classes={config.num_classes}, but {config.source} has {source.num_classes} "
            "classes; the other outputs are never right",
            file=sys.stderr,
        )
    return source


def train_batches(source, config, batch_size: int, seed: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled and augmented batches, from that of step `start` on.

    Each pass over the data has its own order, and batches run across its end, so that no example is left out. With
    `config.repeats` of 3, each image comes three times in a row with other changes, and a pass of as many rows as
    there are images ends after a third of them (repeated augmentation, as in DeiT).
    """
    place_of = _place_of_rows(batch_size)

    def example(row: int) -> dict:
        position = place_of(row)
        epoch, place = divmod(position, len(source))
        index = int(_order(seed, epoch, len(source))[place // config.repeats])
        return _train_example(source, config, index, np.random.default_rng((seed, position)))

    first = start * _share(batch_size)
    return iter(_Watched(_batches(grain.MapDataset.range(_ENDLESS)[first:].map(example), config, batch_size)))


@lru_cache(maxsize=2)
def _order(seed, epoch, count):
    return np.random.default_rng((seed, epoch)).permutation(count)


def example_batch(source, config) -> dict[str, np.ndarray]:
    """A training batch of one, for its shapes."""
    return {name: value[None] for name, value in _train_example(source, config, 0, np.random.default_rng(0)).items()}


def eval_batches(source, config, batch_size: int) -> Iterable[dict[str, np.ndarray]]:
    """Every example exactly once, in order, whatever the batch size and the number of processes.

    Damaged images are left out with `damaged="skip"`.
    """
    place_of, change = _place_of_rows(batch_size), partial(change_for_evaluation, config)

    def example(row: int) -> dict:
        index = place_of(row)
        found = _load(source, index if index < len(source) else 0, config.damaged, change)
        whole = not found.pop("skipped", 0)
        return {**found, "mask": np.float32(whole and index < len(source))}

    count = -(-len(source) // batch_size) * _share(batch_size)
    return _Watched(_batches(grain.MapDataset.range(count).map(example), config, batch_size))


class _Watched:
    """The same batches, with an error that tells what to do if a worker is gone."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        try:
            yield from self._batches
        except RuntimeError as error:
            if "Worker process" not in str(error):
                raise
            raise UserError(
                f"a worker process of the input ended ({error}); if memory ran out, lower --config.data.workers; "
                "the same command continues from the last checkpoint"
            ) from error


def _share(batch_size):
    """Rows of a global batch that this process makes."""
    return batch_size // jax.process_count()


def _place_of_rows(batch_size):
    """Of a row of this process, its place among those of all; made here, as workers know of this process alone."""
    share, process = _share(batch_size), jax.process_index()

    def place_of(row):
        step, own = divmod(row, share)
        return step * batch_size + process * share + own

    return place_of


def _batches(rows, config, batch_size):
    threads = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)  # batches
    batches = rows.batch(_share(batch_size)).to_iter_dataset(threads)
    if config.workers:
        options = grain.MultiprocessingOptions(config.workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    return batches


def _start_worker(*_):
    """What a worker does first: it leaves devices and signals to the main process, and ends with it."""
    jax.config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a terminal or of a job
        signal.signal(number, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load(source, index, damaged, change):
    """An example with its image changed; where that is damaged and may be skipped, the next one that is not."""
    for skipped in range(len(source)):
        example = source[(index + skipped) % len(source)]
        try:
            example = {**example, "image": change(example["image"]), "index": np.int32(index + skipped) % len(source)}
        except DamagedImage as error:
            if damaged == "fail":
                raise UserError(f"{error}; replace it, or set --config.data.damaged=skip") from error
            print(f"warning: {error}; the next one takes its place", file=sys.stderr)
        else:
            return example if damaged == "fail" else {**example, "skipped": np.int32(skipped)}
    raise UserError("every image is damaged")


def _train_example(source, config, index, rng):
    return _load(source, index, config.damaged, lambda image: _change_for_training(config, image, rng))


def _change_for_training(config, image, rng):
    size, interpolation = config.image_size, config.interpolation
    if config.random_crop:
        image = augment.random_resized_crop(image, rng, size, config.crop_scale, interpolation)
    elif size:
        image = augment.resize(image, size, interpolation)
    else:
        image = augment.to_array(image)
    if config.shift:
        image = augment.shift(image, rng, config.shift)
    if config.flip:
        image = augment.flip(image, rng)
    if config.rand_augment:
        fill = tuple(min(255, round(255 * mean)) for mean in config.mean)
        image = rand_augment(image, rng, fill, augment.RESAMPLING[interpolation])
    return image


def change_for_evaluation(config, image) -> np.ndarray:
    """A Photo or an array as the network gets it to evaluate, before the pixels are normalised."""
    if not config.image_size:
        return augment.to_array(image)
    if not config.eval_resize:
        return augment.resize(image, config.image_size, config.interpolation)
    return augment.center_crop(image, config.image_size, config.eval_resize, config.interpolation)
