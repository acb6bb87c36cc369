"""Sets up a run: the mesh, the training data, the task, and the train step compiled from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from acmix_jax.config import check_config, follow_data
from acmix_jax.data import pipeline
from acmix_jax.devices import sharding
from acmix_jax.run import workdir
from acmix_jax.tasks import create_task
from acmix_jax.tasks.base import Batch, Task
from acmix_jax.training import optim
from acmix_jax.training.state import TrainState
from acmix_jax.training.step import build_step


@dataclass(frozen=True)
class Setup:
    """All that a run needs before its first step.

    Attributes:
      config: with the number of classes.
      mesh: the devices.
      source: the training examples.
      task: the model and its loss.
      total_steps: length of the run.
      example: a training batch of one, for its shapes.
      init: key -> the state before the first step; jitted.
      shapes: of the state, with shardings.
      step: (state, batch) -> (state, metrics); jitted, donates the old state.
    """

    config: Any
    mesh: jax.sharding.Mesh
    source: Any
    task: Task
    total_steps: int
    example: Batch
    init: Callable
    shapes: TrainState
    step: Callable


def set_up(
    config: Any, devices: Sequence[jax.Device] | None = None, source: Any = None, resumed: Path | None = None
) -> Setup:
    """Builds everything from the config; compiles nothing and writes nothing.

    Args:
      devices: default: all. They need not be here, see benchmark/devices.py.
      source: the training examples; default: those of `config.data`.
      resumed: workdir of the run that goes on; the data must have its classes.

    Raises:
      UserError: a setting is wrong, or does not fit the data.
    """
    check_config(config)
    mesh = sharding.make_mesh(config.batch_size, config.fsdp, devices)
    source = pipeline.open_source(config.data, "train") if source is None else source
    if resumed:
        workdir.check_classes(resumed, pipeline.classes_of(source))
    config = follow_data(config, source.num_classes)
    task = create_task(config, mesh)
    source = task.view(source, train=True)
    example = pipeline.example_batch(source, config.data, task.change)

    steps_per_epoch = len(source) / config.batch_size
    total_steps = max(1, round(config.num_epochs * steps_per_epoch))
    schedule = optim.learning_rate_schedule(config.optimizer, config.num_epochs, steps_per_epoch, config.batch_size)
    optimizer = optim.make_optimizer(config.optimizer, schedule)
    with jax.set_mesh(mesh):
        init, shapes, step = build_step(config, task, optimizer, schedule, example, mesh)
    return Setup(config, mesh, source, task, total_steps, example, init, shapes, step)
