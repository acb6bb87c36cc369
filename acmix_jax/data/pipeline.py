"""Makes batches of the examples of a named data set, with Grain.

The order and the augmentation are functions of the seed and the step alone, not of the number of processes, workers or
threads. The task changes each example: see `Change`.

A batch is a dict of NumPy arrays, this process's share of the global batch: what the task's examples hold, e.g. "image"
uint8 `[B, H, W, C]`; "index" int32 `[B]`, of the example in its source; in evaluation "mask" float32 `[B]`, 0 for rows
that only pad a batch. With `damaged="skip"`, "skipped_count" int32 `[B]` counts the corrupt images that were
passed over to fill each row.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import grain
import jax
import numpy as np

from acmix_jax.data import digits, fashion_mnist
from acmix_jax.data.array_records import RecordSource
from acmix_jax.data.folder import FolderSource
from acmix_jax.data.label_maps import LabelMapSource
from acmix_jax.data.order import Grouped, Groups, TrainOrder, eval_order
from acmix_jax.data.photos import CorruptImage
from acmix_jax.data.scenes import SceneSource
from acmix_jax.data.tfds import TfdsSource
from acmix_jax.errors import UserError, check_choice

SOURCES = {
    "digits": digits.load,
    "fashion_mnist": fashion_mnist.load,
    "folder": lambda split, directory: FolderSource(directory, split),
    "records": lambda split, directory: RecordSource(directory, split),
    "scenes": lambda split, directory: SceneSource(split),
    "label_maps": lambda split, directory: LabelMapSource(directory, split),
}

Change = Callable[[dict, np.random.Generator | None], dict]
"""(example of a source, generator for augmentation or None in evaluation) -> example as in a batch."""

grain.config.update("py_traceback_filtering", "off")  # it would add lines to the messages of our errors
_ENDLESS = 2**62  # rows; Grain needs a length


def open_source(config, split: str):
    """Opens split "train" or "test" of `config.source`, for random access to its examples.

    Raises:
      UserError: unknown source, or absent files.
    """
    if config.source.startswith("tfds:"):
        return TfdsSource(config.source.removeprefix("tfds:"), split, config.dir)
    check_choice("data source", config.source, [*SOURCES, "tfds:NAME"])
    return SOURCES[config.source](split, config.dir)


def classes_of(source) -> list[str] | None:
    """Names of a source's classes, in the order of the labels; None if it has none."""
    return getattr(source, "classes", None)


def colors_of(source) -> list[str] | None:
    """Colours that a source draws its classes in, as #rrggbb; None if it has none."""
    colors = getattr(source, "colors", None)
    return None if colors is None else ["#" + bytes(color).hex() for color in colors]


def train_batches(
    source, config, change: Change, batch_size: int, seed: int, start: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled and augmented batches, from that of step `start` on.

    Each pass over the data has its own order, see data/order.py. With `config.repeats` of 3, each image comes three
    times in a row with different augmentation, and a pass of as many rows as there are images ends after a third of
    them (repeated augmentation, as in DeiT).
    """
    groups, global_row = _groups(source, config.damaged), _global_row(batch_size)
    order = TrainOrder(groups, batch_size, seed)

    def example(row: int) -> dict:
        number = global_row(row)
        candidates = groups.following(order.index(number, config.repeats))
        return _load(source, candidates, config.damaged, change, np.random.default_rng((seed, number)))

    first = start * _share(batch_size)
    return iter(_Watched(_batches(grain.MapDataset.range(_ENDLESS)[first:].map(example), config, batch_size)))


def example_batch(source, config, change: Change) -> dict[str, np.ndarray]:
    """A training batch of one, for its shapes."""
    candidates = _groups(source, config.damaged).following(0)
    example = _load(source, candidates, config.damaged, change, np.random.default_rng(0))
    return {name: value[None] for name, value in example.items()}


def eval_batches(source, config, change: Change, batch_size: int) -> Iterable[dict[str, np.ndarray]]:
    """Every example exactly once, in order (group by group), for any batch size and number of processes.

    Corrupt images are left out with `damaged="skip"`, and so are batches of a group without any intact one.
    """
    groups, global_row = _groups(source, config.damaged), _global_row(batch_size)
    indices, real = eval_order(groups, batch_size)

    def example(row: int) -> dict:
        number = global_row(row)
        try:
            loaded = _load(source, groups.following(int(indices[number])), config.damaged, change, None)
        except _NoneIntact:  # so it is in each row of the group's batches, in each process
            return {}
        intact = not loaded.pop("skipped_count", 0)
        return {**loaded, "mask": np.float32(intact and real[number])}

    rows = grain.MapDataset.range(len(indices) // batch_size * _share(batch_size))
    return _Watched(_batches(rows.map(example), config, batch_size))


class _NoneIntact(UserError):
    """No image of a group can be read."""

    def __init__(self, message="no image of the data can be read; see the warnings, and check --config.data.dir"):
        super().__init__(message)  # as an argument, for a copy from a worker process


class _Watched:
    """The same batches without empty ones; if all are empty or a worker dies, the error says what to do."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        is_empty = True
        try:
            for batch in self._batches:
                if batch:
                    is_empty = False
                    yield batch
        except RuntimeError as error:
            if "Worker process" not in str(error):
                raise
            reason = str(error).partition(". ")[0]
            raise UserError(
                f"a worker process of the input ended ({reason}); if memory ran out, lower --config.data.workers; "
                "the same command continues from the last checkpoint"
            ) from error
        if is_empty:
            raise _NoneIntact


def _share(batch_size):
    """Rows of a global batch that this process makes."""
    return batch_size // jax.process_count()


def _global_row(batch_size):
    """Maps a row of this process to its global row. Built in the main process: in workers, process_index() is 0."""
    share, process = _share(batch_size), jax.process_index()

    def global_row(row):
        step, own = divmod(row, share)
        return step * batch_size + process * share + own

    return global_row


def _batches(rows, config, batch_size):
    threads = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)  # batches
    batches = rows.batch(_share(batch_size)).to_iter_dataset(threads)
    if config.workers:
        options = grain.MultiprocessingOptions(config.workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    return batches


def _start_worker(*_):
    """Leaves devices and signals to the main process, and ends the worker when that ends."""
    jax.config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a terminal or of a job
        signal.signal(number, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _groups(source, damaged):
    """The groups of a source; an example whose group cannot be read is treated as `damaged` says, when it is loaded."""
    group_of = getattr(source, "group_of", None)
    return Groups(source if group_of is None else Grouped(source, partial(_group_or_none, group_of, damaged)))


def _group_or_none(group_of, damaged, index):
    try:
        return group_of(index)
    except CorruptImage as error:
        if damaged == "fail":
            raise _damaged(error) from error
        return None


def _damaged(error):
    return UserError(f"{error}; repair or replace it, or set --config.data.damaged=skip")


def _load(source, candidates, damaged, change, rng):
    """The changed example at the first of these indices; with damaged="skip" at the first one that is intact."""
    for skipped, index in enumerate(candidates):
        try:
            example = {**change(source[index], rng), "index": np.int32(index)}
        except CorruptImage as error:
            if damaged == "fail":
                raise _damaged(error) from error
            print(f"warning: {error}; using the next one", file=sys.stderr)
        else:
            return example if damaged == "fail" else {**example, "skipped_count": np.int32(skipped)}
    raise _NoneIntact
