import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acmix_jax.config import default_config
from acmix_jax.errors import UserError
from acmix_jax.training import optim


@pytest.fixture
def settings():
    settings = default_config().optimizer
    settings.learning_rate, settings.warmup_epochs, settings.warmup_start = 0.4, 2.0, 0.25
    return settings


def rates(settings, steps, **run):
    rate = optim.learning_rate_schedule(
        settings, **{"num_epochs": 20.0, "steps_per_epoch": 5.0, "batch_size": 64} | run
    )
    return [float(rate(step)) for step in steps]


def test_learning_rate_at_named_steps(settings):
    found = rates(settings, (0, 5, 10, 55, 100))  # start, half-way up, peak, half-way down, end
    np.testing.assert_allclose(found, [0.1, 0.25, 0.4, 0.2, 0.0], atol=1e-6)


def test_without_a_restart_the_cosine_goes_on_where_it_would_be(settings):
    settings.restart, settings.final = False, 0.1
    wanted = [0.1, 0.25, 0.04 + 0.18 * (1 + np.cos(np.pi / 10)), 0.22, 0.04]
    np.testing.assert_allclose(rates(settings, (0, 5, 10, 50, 100)), wanted, atol=1e-6)


def test_by_epoch_the_rate_is_constant_within_each(settings):
    settings.per_epoch = True
    found = rates(settings, range(100))
    assert all(len(set(epoch)) == 1 for epoch in np.reshape(found, (20, 5)))
    np.testing.assert_allclose(found[5:10], 0.25, atol=1e-6)
    np.testing.assert_allclose(rates(settings, (30, 33, 34), steps_per_epoch=10 / 3)[:2], 2 * [found[45]], atol=1e-6)


def test_the_rate_is_in_proportion_to_the_batch(settings):
    settings.reference_batch = 128
    np.testing.assert_allclose(rates(settings, (10,), batch_size=512), [1.6], rtol=1e-6)


def test_a_run_shorter_than_its_warmup_ends_on_the_way_up(settings):
    assert [round(x, 4) for x in rates(settings, range(4), num_epochs=0.6)] == [0.1, 0.2, 0.3, 0.4]


def test_a_long_gradient_is_clipped(settings):
    settings.clip_norm, settings.momentum, settings.weight_decay = 5.0, 0.0, 0.0
    optimizer = optim.make_optimizer(settings, lambda step: 1.0)
    params = {"kernel": jnp.zeros(2)}
    updates, _ = optimizer.update({"kernel": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-3, -4], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_keep_their_values(settings, name):
    settings.name, settings.frozen, settings.clip_norm = name, "shift/kernel", 1.0
    optimizer = optim.make_optimizer(settings, lambda step: 0.5)
    params = {"shift": {"kernel": jnp.array([2.0])}, "fc": {"kernel": jnp.array([2.0])}}
    updates, _ = optimizer.update(jax.tree.map(lambda x: 1e3 * x, params), optimizer.init(params), params)
    assert updates["shift"]["kernel"] == 0 != updates["fc"]["kernel"]
    if name == "sgd":  # a frozen parameter's gradient takes no part in the clipping
        settings.frozen, kernel = "", {"fc": {"kernel": jnp.array([2.0])}}
        alone = optim.make_optimizer(settings, lambda step: 0.5)
        wanted, _ = alone.update({"fc": {"kernel": jnp.array([2e3])}}, alone.init(kernel), kernel)
        assert wanted["fc"]["kernel"] == updates["fc"]["kernel"]


def test_a_pattern_that_freezes_nothing_is_a_mistake(settings):
    settings.frozen = "shfit/kernel"
    with pytest.raises(UserError, match="optimizer.frozen=shfit/kernel is found in no parameter's path"):
        optim.make_optimizer(settings, lambda step: 0.5).init({"shift": {"kernel": jnp.ones(1)}})


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
