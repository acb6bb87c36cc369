"""Evaluation: a task's predictions over an evaluator's data."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax

from acmix_jax.config import check_config, follow_data
from acmix_jax.data import pipeline
from acmix_jax.devices import sharding
from acmix_jax.errors import UserError
from acmix_jax.evaluators import best_metric
from acmix_jax.evaluators.base import Evaluator
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.tasks import create_evaluator, create_task
from acmix_jax.tasks.base import Task, Variables
from acmix_jax.weights.names import BIAS_TABLE, window_hint, window_of


def make_predict(task: Task, keys: tuple[str, ...], mesh: jax.sharding.Mesh) -> Callable[[Variables, Any], Any]:
    """A jitted (variables, batch) -> (predictions, entries `keys` of the batch), both replicated on every process."""

    def predict(variables, batch):
        return task.predict(variables, batch), {key: batch[key] for key in keys}

    return jax.jit(predict, out_shardings=sharding.replicated(mesh))


def evaluate(
    predict: Callable, variables: Variables, evaluator: Evaluator, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """Runs the evaluator over all of its batches; `predict` is from `make_predict`."""
    evaluator.reset()
    for batch in evaluator.batches:
        predictions, rest = jax.device_get(predict(variables, sharding.put_batch(batch, mesh)))
        evaluator.add(predictions, rest)
    return evaluator.result()


def evaluate_checkpoint(config, folder: Path, which: str, out: Path | None = None) -> str:
    """Evaluates checkpoint "latest", "best" or a step of the run in `folder`; returns the result as text.

    Args:
      out: folder for pictures of good and bad images, if the task draws some (`Task.review`); default: the workdir.

    Raises:
      UserError: a setting is wrong, there is no such checkpoint, or the data has other classes than the run.
    """
    check_config(config)
    mesh = sharding.make_mesh(config.batch_size)
    source = pipeline.open_source(config.data, "test")
    workdir.check_classes(folder, pipeline.classes_of(source))
    config = follow_data(config, workdir.read_facts(folder)["num_classes"])
    task = create_task(config, mesh)
    evaluator = create_evaluator(config, task, source)
    with Checkpoints(folder / "checkpoints", best_metric(config), read_only=True) as checkpoints, jax.set_mesh(mesh):
        step, variables = checkpoints.read_variables(which)
        variables = jax.device_put(variables, sharding.replicated(mesh))
        with explained(config, folder, variables):
            evaluate(make_predict(task, evaluator.keys, mesh), variables, evaluator, mesh)
        written = _review(task, variables, evaluator, source, out or folder)
    return "\n".join([f"{config.model} at step {step}: {evaluator.report()}", *(f"  {path}" for path in written)])


@contextlib.contextmanager
def explained(config, folder: Path, variables: Variables) -> Iterator[None]:
    """Turns Flax's error about variables of `folder` that do not fit the model into a UserError."""
    try:
        yield
    except flax.errors.FlaxError as error:
        reason = str(error).partition(". (https://")[0] + "; use the config that it was trained with"
        if BIAS_TABLE in str(error) and (window := window_of(variables["params"])):
            reason = window_hint(window, config.acmix.window_size or "the default", "--config.acmix.window_size")
        raise UserError(f"the checkpoint in {folder} does not fit {config.model}: {reason}") from error


def _review(task, variables, evaluator, source, out):
    """Pictures of the task's own choice; the first process writes them, a folder that cannot be written is told."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return task.review(variables, evaluator, source, out)
    except OSError as error:
        print(f"warning: no pictures, as {str(out)!r} cannot be written ({error}); set --out=DIR", file=sys.stderr)
        return []
