"""The one training loop. It knows tasks and evaluators, never which ones."""

import contextlib
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

from acmix_jax import optim, sharding, warm_start, workdir
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


def make_train_step(task: Task, optimizer: optax.GradientTransformation, schedule: Callable, seed: int) -> Callable:
    """A pure function (state, batch) -> (state after one update, metrics of the batch before it)."""

    def train_step(state, batch):
        rngs = {"dropout": jax.random.fold_in(jax.random.key(seed), state.step)}

        def loss_of(params):
            return task.loss({"params": params, **state.model_state}, batch, rngs)

        (_, (metrics, model_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "learning_rate": schedule(state.step),
            "grad_norm": optax.tree.norm(gradients),
            "state_norm": optax.tree.norm((params, model_state)),  # finite only if what a checkpoint would hold is
        }
        return TrainState(state.step + 1, params, model_state, opt_state), metrics

    return train_step


def train(config, folder: Path, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Trains as the config says, continuing what `folder` holds of it; in one process, on all of its devices.

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
    mesh = sharding.make_mesh(config.batch_size, devices)
    source = pipeline.open_source(config.data, "train")
    eval_source = pipeline.open_source(config.data, "test")
    task, evaluator = create_task(config, pipeline.eval_batches(eval_source, config.data, config.batch_size))
    batches = pipeline.train_batches(source, config.data, config.batch_size, config.seed)
    example = {name: np.asarray(value)[None] for name, value in source[0].items()}  # a batch of one, for its shapes

    # How
    steps_per_epoch = len(source) / config.batch_size
    total = max(1, round(config.num_epochs * steps_per_epoch))
    schedule = optim.learning_rate_schedule(config.optimizer, total, steps_per_epoch)
    optimizer = optim.make_optimizer(config.optimizer, schedule)

    with jax.set_mesh(mesh), StopSignal() as stop, contextlib.ExitStack() as closing:
        # The state: from the newest checkpoint, or fresh
        everywhere = sharding.replicated(mesh)
        init = jax.jit(partial(create_state, task, optimizer, example), out_shardings=everywhere)
        key = jax.random.key(config.seed)
        # Shapes first: a mistake in the model or in init_from shows before any file is made.
        shapes = sharding.with_sharding(jax.eval_shape(init, key), everywhere)
        if config.init_from and not (folder / "config.json").exists():
            warm_start.read_into(shapes.variables, Path(config.init_from))
        workdir.prepare(folder, config)
        checkpoints = Checkpoints(folder / "checkpoints", config.best_metric, config.keep_checkpoints)
        closing.enter_context(checkpoints)
        state = checkpoints.restore(shapes, batches)
        if state is None:
            state = init(key)
            if config.init_from:
                state = _start_from(Path(config.init_from), state, everywhere)
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
        start = int(state.step)
        progress = Progress(total, start, config.batch_size)
        if start == total:
            progress.say(f"finished before, at step {total}; see {folder}")
            return state

        # The loop. Steps are only queued here; the host waits for the device when it logs, evaluates or saves.
        train_step = jax.jit(
            make_train_step(task, optimizer, schedule, config.seed), out_shardings=everywhere, donate_argnums=0
        )
        begin = time.monotonic()
        train_step = train_step.lower(shapes, sharding.batch_shapes(example, config.batch_size, mesh)).compile()
        progress.say(f"train step compiled in {time.monotonic() - begin:.1f} s; step {start} of {total} done")
        predict = make_predict(task, evaluator.keys, mesh)
        writer = closing.enter_context(MetricsWriter(folder, start))
        pending = []
        progress.rate(start)
        for step in range(start + 1, total + 1):
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, sharding.put_batch(next(batches), mesh))
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
            writer.write(step, scalars)
            if saving:
                checkpoints.save(step, state, batches, evaluation)
            if stopping and step < total:
                raise StopRequested(step, stop.exit_code)
            progress.rate(step)
    return state


def _start_from(folder: Path, state: TrainState, sharding_of_state: jax.sharding.Sharding) -> TrainState:
    """The fresh state with the weights in `folder`; says what was taken."""
    variables, words = warm_start.read_into(state.variables, folder)
    print(f"init_from {words}", file=sys.stderr)
    params = variables.pop("params")
    params, model_state = jax.device_put((params, variables), sharding_of_state)
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
