"""The step on a task so small that its results can be computed by hand."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acmix_jax.layers.norm import BatchNorm
from acmix_jax.run.profile import Trace
from acmix_jax.tasks.classification import Classification
from acmix_jax.training.step import create_state, make_train_step


class Line:
    """Fits y = w x."""

    def init(self, key, batch):
        return {"params": {"w": jnp.float32(1)}}

    def loss(self, variables, batch, rngs):
        loss = jnp.mean((variables["params"]["w"] * batch["x"] - batch["y"]) ** 2) / 2
        return loss, ({"loss": loss}, {})


BATCH = {"x": np.array([1, 2, 1, 2], np.float32), "y": np.array([3, 6, 3, 6], np.float32)}
SLOPE = 2.5  # the gradient is SLOPE * (w - 3)


def after(steps, **fields):
    optimizer = optax.sgd(0.1)
    state = create_state(Line(), optimizer, BATCH, jax.random.key(0), averages="ema" in fields)
    step = jax.jit(make_train_step(Line(), optimizer, lambda step: 0.1, seed=0, **fields))
    for _ in range(steps):
        state, metrics = step(state, BATCH)
    return state, metrics


def test_a_step_follows_the_gradient():
    state, metrics = after(1)
    assert float(state.params["w"]) == pytest.approx(1 + 0.1 * SLOPE * 2)
    assert float(metrics["grad_norm"]) == pytest.approx(SLOPE * 2)
    assert float(metrics["loss"]) == pytest.approx(2.5 * 4 / 2)
    assert state.average is None


def test_parts_of_a_batch_add_up():
    whole, parts = after(3), after(3, accumulate=2)
    assert float(whole[0].params["w"]) == pytest.approx(float(parts[0].params["w"]))
    assert float(whole[1]["loss"]) == pytest.approx(float(parts[1]["loss"]))


def test_the_average_follows_the_parameters():
    state, _ = after(5, ema=0.9)
    parameter = average = 1.0
    for _ in range(5):
        parameter += 0.1 * SLOPE * (3 - parameter)
        average = 0.9 * average + 0.1 * parameter
    assert float(state.params["w"]) == pytest.approx(parameter)
    assert float(state.average["w"]) == pytest.approx(average)
    assert state.variables["params"] is state.average


class Small(nn.Module):
    """One convolution with BatchNorm."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3))(images)))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def test_groups_are_normalised_each_by_itself():
    """A batch in two groups does what each group does alone, on average: statistics, loss and gradient."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    image[4:] //= 2  # so that the groups differ
    batch = {"image": image, "label": np.arange(8) % 10}
    one = Classification(Small(), 0.0, False, 0.0, 0.0, 0.0, 1, (0.5,), (0.5,), change=None)
    variables = one.init(jax.random.key(0), batch)

    def results(task, batch):
        def loss_of(params):
            rngs = {name: jax.random.key(0) for name in ("dropout", "augment")}
            loss, (_, changed) = task.loss({**variables, "params": params}, batch, rngs)
            return loss, changed

        return jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])

    halves = [results(one, jax.tree.map(lambda x, part=part: x[part], batch)) for part in (slice(4), slice(4, 8))]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    actual = results(dataclasses.replace(one, batch_norm_groups=2), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)
    assert abs(float(results(one, batch)[0][0] - expected[0][0])) > 1e-3  # normalised together it is another loss


def test_a_trace_of_the_steps_asked_for(tmp_path):
    with Trace(tmp_path, "2:3") as trace:
        for step in range(1, 6):
            trace.at(step, jnp.ones(3) + step)
            assert any(tmp_path.rglob("*.xplane.pb")) == (step > 3)
    with Trace(tmp_path / "none", "") as trace:
        trace.at(1, ())
    assert not (tmp_path / "none").exists()


def test_counts_of_a_batch_are_summed_over_its_rows():
    """Also where the batch goes through the model in parts, whose other metrics are averaged."""
    optimizer, batch = optax.sgd(0.1), BATCH | {"skipped_count": np.array([0, 2, 0, 1], np.int32)}
    state = create_state(Line(), optimizer, batch, jax.random.key(0))
    for accumulate in (1, 2):
        step = jax.jit(make_train_step(Line(), optimizer, lambda step: 0.1, 0, accumulate))
        assert int(step(state, batch)[1]["skipped_count"]) == 3
