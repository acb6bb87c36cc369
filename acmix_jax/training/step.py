"""The train step, a pure function of state and batch, and the state before the first one."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from acmix_jax.devices import sharding
from acmix_jax.tasks.base import Task
from acmix_jax.training.state import TrainState


def build_step(
    config: Any, task: Task, optimizer: optax.GradientTransformation, schedule: Callable, example: Any, mesh: Any
) -> tuple[Callable, TrainState, Callable]:
    """The jitted init and train step of a config on a mesh.

    Args:
      example: a batch of one, for its shapes.

    Returns:
      init: key -> the state before the first step.
      shapes: of the state, with shardings.
      train_step: (state, batch) -> (state, metrics); donates the old state.
    """
    init = partial(create_state, task, optimizer, example, averages=config.ema > 0)
    shapes = jax.eval_shape(lambda: init(jax.random.key(0)))  # no key outside the trace: the mesh may be unable to run
    layout = sharding.split_large(shapes, mesh)
    step = make_train_step(task, optimizer, schedule, config.seed, config.accumulate, config.ema)
    step = jax.jit(step, out_shardings=(layout, sharding.replicated(mesh)), donate_argnums=0)
    return jax.jit(init, out_shardings=layout), sharding.with_sharding(shapes, layout), step


class CompiledSteps:
    """The train step, compiled ahead of time once for each tree of batch shapes.

    Args:
      step, shapes: from `build_step`.
      mesh: the devices, to name them.
      say: takes a message for each compilation.
    """

    def __init__(self, step: Callable, shapes: TrainState, mesh: jax.sharding.Mesh, say: Callable[[str], None]):
        self._step, self._shapes, self._say = step, shapes, say
        self._where = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        self._compiled = {}

    def of(self, batch: Any) -> Callable:
        """The compiled step for batches like this one: global arrays, or their shapes with shardings."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch)
        key = tuple(sorted((name, x.shape, x.dtype.name) for name, x in shapes.items()))
        if key not in self._compiled:
            begin = time.monotonic()
            self._compiled[key] = self._step.lower(self._shapes, shapes).compile()
            names = ", ".join(f"{name} {'x'.join(map(str, shape[1:]))}" for name, shape, _ in key if len(shape) > 1)
            self._say(f"train step compiled in {time.monotonic() - begin:.1f} s for {self._where}, {names}")
        return self._compiled[key]


def create_state(
    task: Task, optimizer: optax.GradientTransformation, batch: Any, key: jax.Array, averages: bool = False
) -> TrainState:
    """The state before the first step; runs under jit; `batch` only gives the shapes."""
    variables = task.init(key, batch)
    params = variables.pop("params")
    average = jax.tree.map(jnp.copy, params) if averages else None
    return TrainState(jnp.int32(0), params, variables, optimizer.init(params), average)


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: Callable, seed: int, accumulate: int = 1,
    ema: float = 0.0,
) -> Callable:  # fmt: skip
    """A pure function (state, batch) -> (state after one update, metrics of the batch before it).

    Args:
      accumulate: number of parts of a batch that go through the model one after the other, to save memory; their
        gradients are averaged. BatchNorm normalises each part separately.
      ema: decay of the moving average of the parameters, if the state has one.
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
        average = None if state.average is None else optax.incremental_update(params, state.average, 1 - ema)
        metrics |= {
            "learning_rate": schedule(state.step),
            "grad_norm": optax.tree.norm(gradients),
            "state_norm": optax.tree.norm((params, model_state)),  # finite only if a checkpoint of it would be
        }
        metrics |= {name: count.sum() for name, count in batch.items() if name.endswith("_count")}
        return TrainState(state.step + 1, params, model_state, opt_state, average), metrics

    return train_step


def _rngs(key, part):
    return {"dropout": jax.random.fold_in(key, 2 * part), "augment": jax.random.fold_in(key, 2 * part + 1)}
