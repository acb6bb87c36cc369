import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acmix_jax import optim
from configs import common


@pytest.fixture
def settings():
    settings = common.get_config().optimizer
    settings.learning_rate, settings.warmup_epochs, settings.warmup_start = 0.4, 2.0, 0.25
    return settings


def test_learning_rate_at_named_steps(settings):
    rate = optim.learning_rate_schedule(settings, total_steps=100, steps_per_epoch=5.0)
    found = [float(rate(step)) for step in (0, 5, 10, 55, 100)]  # start, half-way up, peak, half-way down, end
    np.testing.assert_allclose(found, [0.1, 0.25, 0.4, 0.2, 0.0], atol=1e-6)


def test_a_run_shorter_than_its_warmup_ends_on_the_way_up(settings):
    rate = optim.learning_rate_schedule(settings, total_steps=3, steps_per_epoch=5.0)
    assert [round(float(rate(step)), 4) for step in range(4)] == [0.1, 0.2, 0.3, 0.4]


def test_alpha_and_beta_do_not_decay(settings):
    params = {"block": {"alpha": 1, "beta": 1, "alphabet": {"kernel": 1, "bias": 1}}, "head": {"kernel": 1}}
    wanted = {"block": {"alpha": False, "beta": False, "alphabet": {"kernel": True, "bias": True}}}
    assert optim.decay_mask(params, settings.no_decay) == wanted | {"head": {"kernel": True}}


def test_decay_joins_the_gradient_before_the_momentum(settings):
    """Two steps by hand: v = momentum * v + gradient + decay * p; p -= rate * v."""
    settings.momentum, settings.weight_decay = 0.9, 0.1
    optimizer = optim.make_optimizer(settings, lambda step: 0.5)
    params = {"kernel": jnp.float32(2.0), "alpha": jnp.float32(2.0)}
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"kernel": jnp.float32(1.0), "alpha": jnp.float32(1.0)}, state, params)
        params = optax.apply_updates(params, updates)
    first = 2 - 0.5 * 1.2
    assert params["kernel"] == pytest.approx(first - 0.5 * (0.9 * 1.2 + 1 + 0.1 * first))
    assert params["alpha"] == pytest.approx(2 - 0.5 * 1 - 0.5 * 1.9)
