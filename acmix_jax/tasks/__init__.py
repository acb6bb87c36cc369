"""The tasks by their name in the config, each with its evaluator."""

from typing import Any

import jax

from acmix_jax.data import pipeline
from acmix_jax.errors import check_choice
from acmix_jax.evaluators import EVALUATORS, best_metric
from acmix_jax.evaluators.base import Evaluator
from acmix_jax.tasks.base import Task
from acmix_jax.tasks.classification import Classification
from acmix_jax.tasks.segmentation import Segmentation

TASKS = {"classification": Classification, "segmentation": Segmentation}


def create_task(config, mesh: jax.sharding.Mesh | None = None) -> Task:
    """The task that `config.task` names.

    Args:
      mesh: the devices that the run is for, which choose the model's forms (`models.model_fields`); None for a model
        for any devices.

    Raises:
      UserError: there is no such task, or its evaluator has no metric `config.best_metric`.
    """
    check_choice("task", config.task, TASKS)
    best_metric(config)  # raises for an unknown one, before anything starts
    return TASKS[config.task].from_config(config, None if mesh is None else mesh.devices.flat[0].platform)


def create_evaluator(config, task: Task, source: Any) -> Evaluator:
    """The task's evaluator over all examples of `source`.

    Raises:
      UserError: the examples do not fit the task.
    """
    source = task.view(source, train=False)
    batches = pipeline.eval_batches(source, config.data, task.change, config.batch_size)
    return EVALUATORS[config.task](source, batches)
