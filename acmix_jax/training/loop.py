"""The training loop, one for all tasks and evaluators."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview

from acmix_jax.data import pipeline
from acmix_jax.devices import memory, processes, sharding
from acmix_jax.errors import UserError
from acmix_jax.evaluators import best_metric
from acmix_jax.run import environment, lock, workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.run.metrics import MetricsWriter, StepLog
from acmix_jax.run.profile import Trace
from acmix_jax.run.progress import Progress
from acmix_jax.run.stop import StopRequested, StopSignal
from acmix_jax.tasks import create_evaluator
from acmix_jax.training.evaluate import evaluate, make_predict
from acmix_jax.training.setup import Setup, set_up
from acmix_jax.training.state import TrainState
from acmix_jax.training.step import CompiledSteps
from acmix_jax.weights.stored import read_into


def train(config, folder: Path, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Trains with `config`, or resumes the run in `folder`; on all devices of all processes.

    Args:
      config: see acmix_jax/config/fields.py.
      folder: the workdir; gets config.json (with the class names), metrics.jsonl, TensorBoard events and checkpoints/.
      devices: default: all.

    Returns:
      The state after the last step.

    Raises:
      UserError: a setting is wrong, another run in `folder` has not ended, or the loss is no longer finite (earlier
        checkpoints stay).
      StopRequested: a signal ended the run early; its state is saved.
    """
    # Mistakes in the config, the data or init_from show here, before any file is made.
    is_new = not (folder / "config.json").exists()
    run = set_up(config, devices, resumed=None if is_new else folder)
    config, classes = run.config, pipeline.classes_of(run.source)
    evaluator = create_evaluator(config, run.task, pipeline.open_source(config.data, "test"))
    if config.init_from and is_new:
        read_into(run.shapes.variables, Path(config.init_from))

    with jax.set_mesh(run.mesh), StopSignal() as stop, contextlib.ExitStack() as closing:
        processes.first_does(lambda: closing.enter_context(lock.held(folder)))
        facts = {"colors": pipeline.colors_of(run.source), "image_size": run.example["image"].shape[1:3]}
        processes.first_does(
            lambda: workdir.prepare(folder, config, len(run.source), environment.describe(), classes, **facts)
        )
        checkpoints = Checkpoints(folder / "checkpoints", best_metric(config), config.keep_checkpoints)
        closing.enter_context(checkpoints)
        state = checkpoints.restore(run.shapes)
        state = _fresh_state(config, run) if state is None else state
        start, total = int(state.step), run.total_steps
        progress = Progress(total, start, config.batch_size, None if processes.is_first() else io.StringIO())
        if start == total:
            progress.say(f"finished before, at step {total}; see {folder}")
            return state
        progress.say(f"step {start} of {total} done")
        batches = pipeline.train_batches(
            run.source, config.data, run.task.change, config.batch_size, config.seed, start
        )
        steps = CompiledSteps(run.step, run.shapes, run.mesh, progress.say)
        steps.of(sharding.batch_shapes(run.example, config.batch_size, run.mesh))
        predict = make_predict(run.task, evaluator.keys, run.mesh)
        writer = closing.enter_context(MetricsWriter(folder, start, config)) if processes.is_first() else None
        examples = folder / f"examples_{jax.process_index()}.jsonl" if config.log_examples else None
        examples = closing.enter_context(StepLog(examples, start)) if examples else None
        trace = closing.enter_context(Trace(folder, config.profile_steps))

        # Steps are only queued; the host waits for the device when it logs, evaluates or saves.
        pending = []
        progress.rate(start)
        for step in range(start + 1, total + 1):
            trace.at(step, pending)
            batch = next(batches)
            if examples:
                examples.write(step, {"index": batch["index"].tolist()})
            batch = sharding.put_batch(batch, run.mesh)
            train_step = steps.of(batch)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            pending.append(metrics)

            stopping = stop.requested(step)
            evaluating = step == total or _due(step, config.eval_every)
            saving = evaluating or stopping or _due(step, config.checkpoint_every)
            if not (saving or _due(step, config.log_every)):
                continue
            scalars = _summarize(pending, step) | run.task.scalars(state.params)
            pending = []
            scalars |= {"images_per_second": progress.rate(step), **memory.peak_gib()}
            progress.update(step, scalars["images_per_second"], f"loss {scalars['loss']:.4f}")
            evaluation = None
            if evaluating:
                evaluation = evaluate(predict, state.variables, evaluator, run.mesh)
                progress.say(f"step {step} evaluation: " + evaluator.summary())
                scalars |= {f"eval_{name}": value for name, value in evaluation.items()}
            if writer:
                writer.write(step, scalars)
            if saving:
                checkpoints.save(step, state, evaluation)
            if stopping and step < total:
                progress.say(f"stopped and saved at step {step}; the same command continues")
                raise StopRequested(stop.exit_code)
            progress.rate(step)
    return state


def _fresh_state(config, run: Setup) -> TrainState:
    """The state before the first step, from `init_from` if that is set; prints an overview of the parameters."""
    state = run.init(jax.random.key(config.seed))
    if config.init_from:
        variables, summary = read_into(state.variables, Path(config.init_from), pipeline.classes_of(run.source))
        print(f"init_from {summary}", file=sys.stderr)
        params, model_state = variables.pop("params"), variables
        average = None if state.average is None else params
        loaded = state.replace(params=params, model_state=model_state, average=average)
        # Copies: the parameters and their average must not share memory, as the step donates it.
        state = jax.device_put(loaded, jax.tree.map(lambda x: x.sharding, state), may_alias=False)
    if processes.is_first():
        print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    return state


def _due(step: int, every: int) -> bool:
    """True every so many steps; never for 0."""
    return every > 0 and step % every == 0


def _summarize(pending: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Metrics of the steps up to `step`: sums of those named *_count, the last learning rate, means of the others.

    Raises:
      UserError: the loss, gradient or new state of a step is not finite; names the first such step.
    """
    fetched = jax.device_get(pending)
    for number, metrics in enumerate(fetched, start=step - len(fetched) + 1):
        bad = [name for name in ("loss", "grad_norm", "state_norm") if not np.isfinite(metrics[name])]
        if bad:
            raise UserError(
                f"{bad[0]} is {metrics[bad[0]]} at step {number}; earlier checkpoints are kept; "
                "lower --config.optimizer.learning_rate or lengthen --config.optimizer.warmup_epochs in a new --workdir"
            )
    columns = {name: [metrics[name] for metrics in fetched] for name in fetched[0]}
    summary = {
        name: float(np.sum(values) if name.endswith("_count") else np.mean(values)) for name, values in columns.items()
    }
    return summary | {"learning_rate": float(columns["learning_rate"][-1])}
