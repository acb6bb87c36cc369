"""Compares the speed of the input pipeline with that of training."""

import time
from collections.abc import Callable
from typing import Any

import jax

from acmix_jax.data import pipeline
from acmix_jax.devices import sharding
from acmix_jax.training.setup import set_up

SECONDS = 20.0  # duration of each of the two measurements


def benchmark_input(config: Any, seconds: float = SECONDS) -> str:
    """Times the pipeline alone, and training on one repeated batch; reports which is slower.

    Runs in one process, on all of its devices; writes nothing.

    Raises:
      UserError: a setting is wrong.
    """
    run = set_up(config)
    batches = pipeline.train_batches(run.source, config.data, run.task.change, config.batch_size, config.seed)
    batch = next(batches)  # the first one starts threads and workers
    input_rate = _images_per_second(lambda: next(batches), config.batch_size, seconds)

    with jax.set_mesh(run.mesh):
        state, batch = run.init(jax.random.key(0)), sharding.put_batch(batch, run.mesh)

        def train():
            nonlocal state
            state, metrics = run.step(state, batch)
            jax.block_until_ready(metrics)

        train()  # compiles
        train_rate = _images_per_second(train, config.batch_size, seconds)
    slower = (
        "the input holds the run back" if input_rate < train_rate else "the devices hold the run back, not the input"
    )
    return (
        f"input alone: {input_rate:,.0f} images/s; training on one batch again and again: {train_rate:,.0f} images/s; "
        f"{slower}"
    )


def _images_per_second(action: Callable[[], Any], batch_size: int, seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        action()
        count += 1
    return count * batch_size / (time.perf_counter() - start)
