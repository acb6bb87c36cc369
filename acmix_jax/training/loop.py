"""The one training loop. It knows tasks and evaluators, never which ones."""

import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview

from acmix_jax.analysis import alpha_beta
from acmix_jax.config import check_config
from acmix_jax.data import pipeline
from acmix_jax.devices import memory, processes, sharding
from acmix_jax.errors import UserError
from acmix_jax.run import environment, workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.run.metrics import MetricsWriter, StepLog
from acmix_jax.run.profile import Trace
from acmix_jax.run.progress import Progress
from acmix_jax.run.stop import StopRequested, StopSignal
from acmix_jax.tasks import create_task
from acmix_jax.training import optim
from acmix_jax.training.evaluate import evaluate, make_predict
from acmix_jax.training.state import TrainState
from acmix_jax.training.step import build_step
from acmix_jax.weights import warm_start


def train(config, folder: Path, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Trains as the config says, continuing what `folder` holds of it; on all devices of all processes.

    Args:
      config: see acmix_jax/config.py.
      folder: the workdir; gets config.json, metrics.jsonl, TensorBoard events and checkpoints/.
      devices: default: all.

    Returns:
      The state after the last step.

    Raises:
      UserError: a setting is wrong, or the loss is no longer finite (earlier checkpoints stay).
      StopRequested: a signal ended the run early; its state is saved.
    """
    check_config(config)

    # What to train, on what
    mesh = sharding.make_mesh(config.batch_size, config.fsdp, devices)
    source = pipeline.open_source(config.data, "train")
    eval_source = pipeline.open_source(config.data, "test")
    task, evaluator = create_task(config, pipeline.eval_batches(eval_source, config.data, config.batch_size))
    example = pipeline.example_batch(source, config.data)

    # How
    steps_per_epoch = len(source) / config.batch_size
    total = max(1, round(config.num_epochs * steps_per_epoch))
    schedule = optim.learning_rate_schedule(config.optimizer, config.num_epochs, steps_per_epoch, config.batch_size)
    optimizer = optim.make_optimizer(config.optimizer, schedule)

    with jax.set_mesh(mesh), StopSignal() as stop, contextlib.ExitStack() as closing:
        # The state: from the newest checkpoint, or fresh
        # Shapes first: a mistake in the model or in init_from shows before any file is made.
        init, shapes, step_of = build_step(config, task, optimizer, schedule, example, mesh)
        if config.init_from and not (folder / "config.json").exists():
            warm_start.read_into(shapes.variables, Path(config.init_from))
        processes.first_does(lambda: workdir.prepare(folder, config, len(source), environment.describe()))
        checkpoints = Checkpoints(folder / "checkpoints", config.best_metric, config.keep_checkpoints)
        closing.enter_context(checkpoints)
        state = checkpoints.restore(shapes)
        if state is None:
            state = init(jax.random.key(config.seed))
            if config.init_from:
                state = _start_from(Path(config.init_from), state)
            if processes.is_first():
                print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
        start = int(state.step)
        batches = pipeline.train_batches(source, config.data, config.batch_size, config.seed, start)
        progress = Progress(total, start, config.batch_size, None if processes.is_first() else io.StringIO())
        if start == total:
            progress.say(f"finished before, at step {total}; see {folder}")
            return state

        # The loop. Steps are only queued here; the host waits for the device when it logs, evaluates or saves.
        begin = time.monotonic()
        compiled = step_of.lower(shapes, sharding.batch_shapes(example, config.batch_size, mesh)).compile()
        where = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        progress.say(
            f"train step compiled in {time.monotonic() - begin:.1f} s for {where}; step {start} of {total} done"
        )
        predict = make_predict(task, evaluator.keys, mesh)
        writer = closing.enter_context(MetricsWriter(folder, start, config)) if processes.is_first() else None
        examples = folder / f"examples_{jax.process_index()}.jsonl" if config.log_examples else None
        examples = closing.enter_context(StepLog(examples, start)) if examples else None
        trace = closing.enter_context(Trace(folder, config.profile_steps))
        pending = []
        progress.rate(start)
        for step in range(start + 1, total + 1):
            trace.at(step, pending)
            batch = next(batches)
            if examples:
                examples.write(step, {"index": batch["index"].tolist()})
            batch = sharding.put_batch(batch, mesh)
            with jax.transfer_guard("disallow"):
                state, metrics = compiled(state, batch)
            pending.append(metrics)
            stopping = stop.requested(step)
            evaluating = step == total or _due(step, config.eval_every)
            saving = evaluating or stopping or _due(step, config.checkpoint_every)
            if not (saving or _due(step, config.log_every)):
                continue
            scalars = _mean_metrics(pending, step) | alpha_beta.scalars(state.params)
            pending = []
            scalars |= {"images_per_second": progress.rate(step), **memory.peak_gib()}
            progress.update(step, scalars["images_per_second"], f"loss {scalars['loss']:.4f}")
            evaluation = None
            if evaluating:
                evaluation = evaluate(predict, state.variables, evaluator, mesh)
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


def _start_from(folder: Path, state: TrainState) -> TrainState:
    """The fresh state with the weights in `folder`; says what was taken."""
    variables, words = warm_start.read_into(state.variables, folder)
    print(f"init_from {words}", file=sys.stderr)
    params, model_state = variables.pop("params"), variables
    average = None if state.average is None else params
    fresh = state.replace(params=params, model_state=model_state, average=average)
    # A copy of each: the parameters and their average must not share memory that a step takes.
    return jax.device_put(fresh, jax.tree.map(lambda x: x.sharding, state), may_alias=False)


def _due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; 0 means never."""
    return every > 0 and step % every == 0


def _mean_metrics(pending: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Means of the metrics of the steps up to `step`; the learning rate is the last one, skipped images are summed.

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
    means = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}
    if "images_skipped" in means:
        means["images_skipped"] *= len(fetched)
    return means | {"learning_rate": float(fetched[-1]["learning_rate"])}
