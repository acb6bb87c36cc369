"""The one training loop. It knows tasks and evaluators, never which ones."""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview

from acmix_jax import environment, optim, processes, sharding, warm_start, workdir
from acmix_jax.analysis import alpha_beta
from acmix_jax.checkpoint import Checkpoints
from acmix_jax.data import pipeline
from acmix_jax.errors import UserError
from acmix_jax.evaluate import evaluate, make_predict
from acmix_jax.metrics_writer import MetricsWriter
from acmix_jax.preemption import StopRequested, StopSignal
from acmix_jax.progress import Progress
from acmix_jax.state import TrainState
from acmix_jax.tasks import create_task
from acmix_jax.tasks.base import Task
from acmix_jax.validation import check_config


def create_state(task: Task, optimizer: optax.GradientTransformation, batch: Any, key: jax.Array) -> TrainState:
    """The state before the first step; runs under jit, `batch` only gives the shapes."""
    variables = task.init(key, batch)
    params = variables.pop("params")
    return TrainState(jnp.int32(0), params, variables, optimizer.init(params))


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: Callable, seed: int, accumulate: int = 1
) -> Callable:
    """A pure function (state, batch) -> (state after one update, metrics of the batch before it).

    With `accumulate` of k, the batch goes through the model in k parts, one after the other, whose gradients are
    averaged: a k-th of the memory. BatchNorm then normalises by each part.
    """

    def gradients_of(params, model_state, batch, rngs):
        def loss_of(params):
            return task.loss({"params": params, **model_state}, batch, rngs)

        (_, (metrics, model_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return gradients, metrics, model_state

    def accumulated(params, model_state, batch, key):
        # Every k-th row: each part then has rows of each device.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part):
            model_state, sums = total
            number, batch = part
            gradients, metrics, model_state = gradients_of(params, model_state, batch, _rngs(key, number))
            return (model_state, jax.tree.map(jnp.add, sums, (gradients, metrics))), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(lambda: gradients_of(params, model_state, first, _rngs(key, 0))[:2])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (model_state, sums), _ = jax.lax.scan(add, (model_state, zeros), (jnp.arange(accumulate), parts))
        return *jax.tree.map(lambda x: x / accumulate, sums), model_state

    def train_step(state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulate > 1:
            gradients, metrics, model_state = accumulated(state.params, state.model_state, batch, key)
        else:
            gradients, metrics, model_state = gradients_of(state.params, state.model_state, batch, _rngs(key, 0))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "learning_rate": schedule(state.step),
            "grad_norm": optax.tree.norm(gradients),
            "state_norm": optax.tree.norm((params, model_state)),  # finite only if what a checkpoint would hold is
        }
        if "skipped" in batch:
            metrics["images_skipped"] = batch["skipped"].sum()
        return TrainState(state.step + 1, params, model_state, opt_state), metrics

    return train_step


def _rngs(key, part):
    return {"dropout": jax.random.fold_in(key, 2 * part), "augment": jax.random.fold_in(key, 2 * part + 1)}


def train(config, folder: Path, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Trains as the config says, continuing what `folder` holds of it; on all devices of all processes.

    Args:
      config: see configs/common.py.
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
        init, key = partial(create_state, task, optimizer, example), jax.random.key(config.seed)
        # Shapes first: a mistake in the model or in init_from shows before any file is made.
        shapes = jax.eval_shape(init, key)
        layout = sharding.split_large(shapes, mesh)
        shapes = sharding.with_sharding(shapes, layout)
        if config.init_from and not (folder / "config.json").exists():
            warm_start.read_into(shapes.variables, Path(config.init_from))
        processes.first_does(lambda: workdir.prepare(folder, config, environment.describe()))
        checkpoints = Checkpoints(folder / "checkpoints", config.best_metric, config.keep_checkpoints)
        closing.enter_context(checkpoints)
        state = checkpoints.restore(shapes)
        if state is None:
            state = jax.jit(init, out_shardings=layout)(key)
            if config.init_from:
                state = _start_from(Path(config.init_from), state, layout)
            if processes.is_first():
                print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
        start = int(state.step)
        batches = pipeline.train_batches(source, config.data, config.batch_size, config.seed, start)
        progress = Progress(total, start, config.batch_size, None if processes.is_first() else io.StringIO())
        if start == total:
            progress.say(f"finished before, at step {total}; see {folder}")
            return state

        # The loop. Steps are only queued here; the host waits for the device when it logs, evaluates or saves.
        train_step = jax.jit(
            make_train_step(task, optimizer, schedule, config.seed, config.accumulate),
            out_shardings=(layout, sharding.replicated(mesh)), donate_argnums=0,
        )  # fmt: skip
        begin = time.monotonic()
        train_step = train_step.lower(shapes, sharding.batch_shapes(example, config.batch_size, mesh)).compile()
        progress.say(f"train step compiled in {time.monotonic() - begin:.1f} s; step {start} of {total} done")
        predict = make_predict(task, evaluator.keys, mesh)
        writer = closing.enter_context(MetricsWriter(folder, start)) if processes.is_first() else None
        trace = closing.enter_context(_Trace(folder, config.profile_steps))
        pending = []
        progress.rate(start)
        for step in range(start + 1, total + 1):
            trace.at(step, pending)
            batch = sharding.put_batch(next(batches), mesh)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            pending.append(metrics)
            stopping = stop.requested(step)
            evaluating = step == total or _due(step, config.eval_every)
            saving = evaluating or stopping or _due(step, config.checkpoint_every)
            if not (saving or _due(step, config.log_every)):
                continue
            scalars = _mean_metrics(pending, step) | alpha_beta.scalars(state.params)
            pending = []
            scalars["images_per_second"] = progress.rate(step)
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
                raise StopRequested(step, stop.exit_code)
            progress.rate(step)
    return state


class _Trace(contextlib.AbstractContextManager):
    """Traces the steps "first:last", for xprof and TensorBoard."""

    def __init__(self, folder: Path, steps: str):
        self._folder, self._running = folder, False
        self._first, self._after = (int(step) + i for i, step in enumerate(steps.split(":"))) if steps else (0, 0)

    def at(self, step: int, queued: Any) -> None:
        """Starts or ends the trace before a step; `queued` are the results to wait for."""
        if step in (self._first, self._after):
            jax.block_until_ready(queued)
            self.__exit__()
            if step == self._first:
                jax.profiler.start_trace(self._folder)
                self._running = True

    def __exit__(self, *_) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def _start_from(folder: Path, state: TrainState, layout: TrainState) -> TrainState:
    """The fresh state with the weights in `folder`; says what was taken."""
    variables, words = warm_start.read_into(state.variables, folder)
    print(f"init_from {words}", file=sys.stderr)
    params = variables.pop("params")
    params, model_state = jax.device_put((params, variables), (layout.params, layout.model_state))
    return state.replace(params=params, model_state=model_state)


def _due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; 0 means never."""
    return every > 0 and step % every == 0


def _mean_metrics(pending: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Means of the metrics of the steps up to `step`; the learning rate is the last one.

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
    return means | {"learning_rate": float(fetched[-1]["learning_rate"])}
