"""The tasks by their name in the config, each with its evaluator."""

from acmix_jax.errors import check_choice
from acmix_jax.evaluators.base import Evaluator
from acmix_jax.evaluators.classification import ClassificationEvaluator
from acmix_jax.tasks.base import Task
from acmix_jax.tasks.classification import Classification

TASKS = {"classification": (Classification, ClassificationEvaluator)}


def create_task(config, eval_batches) -> tuple[Task, Evaluator]:
    """The task that `config.task` names, and an evaluator of it over `eval_batches`."""
    check_choice("task", config.task, TASKS)
    task, evaluator = TASKS[config.task]
    check_choice("best_metric", config.best_metric, evaluator.metrics)
    return task.from_config(config), evaluator(eval_batches)
