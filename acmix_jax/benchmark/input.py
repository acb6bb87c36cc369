"""Compares the speed of the input pipeline with that of training."""

import time
from collections.abc import Callable
from typing import Any

import jax

from acmix_jax.data import pipeline
from acmix_jax.devices import sharding
from acmix_jax.tasks import create_task
from acmix_jax.training import optim
from acmix_jax.training.step import build_step
from acmix_jax.validation import check_config

SECONDS = 20.0  # duration of each of the two measurements


def benchmark_input(config: Any, seconds: float = SECONDS) -> str:
    """Times the pipeline alone, and training on one repeated batch; reports which is slower.

    Runs in one process, on all of its devices; writes nothing.
    """
    check_config(config)
    mesh = sharding.make_mesh(config.batch_size, config.fsdp)
    source = pipeline.open_source(config.data, "train")
    batches = pipeline.train_batches(source, config.data, config.batch_size, config.seed)
    batch = next(batches)  # the first one starts threads and workers
    of_input = _rate(lambda: next(batches), config.batch_size, seconds)

    task, _ = create_task(config, ())
    schedule = optim.learning_rate_schedule(config.optimizer, 1.0, 1.0, config.batch_size)
    optimizer = optim.make_optimizer(config.optimizer, schedule)
    with jax.set_mesh(mesh):
        init, _, step = build_step(config, task, optimizer, schedule, batch, mesh)
        state, batch = init(jax.random.key(0)), sharding.put_batch(batch, mesh)

        def train():
            nonlocal state
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)

        train()  # compiles
        of_training = _rate(train, config.batch_size, seconds)
    slower = (
        "the input holds the run back" if of_input < of_training else "the devices hold the run back, not the input"
    )
    return (
        f"input alone: {of_input:,.0f} images/s; training on one batch again and again: {of_training:,.0f} images/s; "
        f"{slower}"
    )


def _rate(action: Callable[[], Any], batch_size: int, seconds: float) -> float:
    """Images per second."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        action()
        count += 1
    return count * batch_size / (time.perf_counter() - start)
