"""From a named data set to batches, through Grain: deterministic in the seed, resumable at any batch.

A batch is a dict of NumPy arrays, this process's share of the global batch: "image" uint8 `[B, H, W, C]`, "label"
int32 `[B]`, and in evaluation "mask" float32 `[B]`, 0 for rows that only fill up the last batch.
"""

from collections.abc import Iterable
from functools import partial

import grain
import jax
import numpy as np

from acmix_jax.data import augment, digits, fashion_mnist
from acmix_jax.data.tfds import TfdsSource
from acmix_jax.errors import UserError, check_choice

SOURCES = {"digits": digits.load, "fashion_mnist": fashion_mnist.load}


def open_source(config, split: str):
    """The random-access examples of `config.source` ("digits", "fashion_mnist", "tfds:NAME"), "train" or "test".

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
    return source


def train_batches(source, config, batch_size: int, seed: int) -> grain.DatasetIterator:
    """Endless shuffled and augmented batches.

    Each pass over the data has its own order, and batches run across its end, so that no example is left out.
    The iterator's `get_state` and `set_state` continue it at any batch.
    """
    examples = grain.MapDataset.source(source).seed(seed).shuffle()
    examples = examples[jax.process_index() :: jax.process_count()].repeat()
    if config.shift:
        examples = examples.random_map(partial(augment.shift, pixels=config.shift))
    if config.flip:
        examples = examples.random_map(augment.flip)
    batches = examples.batch(batch_size // jax.process_count(), drop_remainder=True)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=16)))


def eval_batches(source, config, batch_size: int) -> Iterable[dict[str, np.ndarray]]:
    """Every example exactly once, in order, whatever the batch size and the number of processes."""
    share = batch_size // jax.process_count()
    count = -(-len(source) // batch_size)

    def example(row: int) -> dict:
        index = row // share * batch_size + jax.process_index() * share + row % share
        real = index < len(source)
        return {**source[index if real else 0], "mask": np.float32(real)}

    batches = grain.MapDataset.range(count * share).map(example).batch(share)
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=16))
