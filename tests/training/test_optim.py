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
    actual = rates(settings, (0, 5, 10, 55, 100))  # start, half-way up, peak, half-way down, end
    np.testing.assert_allclose(actual, [0.1, 0.25, 0.4, 0.2, 0.0], atol=1e-6)


def test_without_a_restart_the_cosine_goes_on_where_it_would_be(settings):
    settings.restart, settings.final = False, 0.1
    expected = [0.1, 0.25, 0.04 + 0.18 * (1 + np.cos(np.pi / 10)), 0.22, 0.04]
    np.testing.assert_allclose(rates(settings, (0, 5, 10, 50, 100)), expected, atol=1e-6)


def test_steps_by_hand(settings):
    """mmdet's 1x: a tenth from epoch 8 on, a hundredth from epoch 11 on; the warm-up is a factor in steps."""
    settings.schedule, settings.milestones, settings.warmup_steps, settings.warmup_start = "steps", [8, 11], 4, 0.0
    actual = rates(settings, (0, 1, 4, 39, 40, 54, 55, 59), num_epochs=12.0)
    np.testing.assert_allclose(actual, [0, 0.1, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004], rtol=1e-6)


def test_a_warmup_beyond_a_milestone_is_a_factor(settings):
    settings.schedule, settings.milestones, settings.gamma, settings.warmup_start = "steps", [1], 0.5, 0.0
    np.testing.assert_allclose(rates(settings, (4, 5, 9, 10)), [0.16, 0.1, 0.18, 0.2], rtol=1e-6)


def test_poly_by_hand(settings):
    """0.4 * (1 - step / 100) ** power, from a factor of 0.25 over 10 steps."""
    settings.schedule, settings.warmup_epochs, settings.warmup_steps = "poly", 0.0, 10
    actual = rates(settings, (0, 4, 10, 50, 90, 100))
    np.testing.assert_allclose(actual, [0.1, 0.4 * 0.96 * 0.55, 0.36, 0.2, 0.04, 0], atol=1e-7)
    settings.power, settings.final = 2.0, 0.1
    actual = rates(settings, (10, 50, 100))
    np.testing.assert_allclose(actual, [0.04 + 0.36 * 0.81, 0.04 + 0.36 * 0.25, 0.04], rtol=1e-6)


def test_a_cosine_after_a_warmup_in_steps(settings):
    settings.warmup_steps = 20  # 4 epochs of 20
    np.testing.assert_allclose(rates(settings, (0, 10, 20, 60, 100)), [0.1, 0.25, 0.4, 0.2, 0], atol=1e-6)
    settings.per_epoch = True  # the warm-up goes on by step
    np.testing.assert_allclose(rates(settings, (1, 11, 61)), [0.115, 0.265, 0.2], atol=1e-6)


def test_an_unknown_schedule_is_named(settings):
    settings.schedule = "step"
    with pytest.raises(UserError, match="unknown optimizer.schedule 'step'; did you mean steps"):
        rates(settings, (0,))


def test_by_epoch_the_rate_is_constant_within_each(settings):
    settings.per_epoch = True
    actual = rates(settings, range(100))
    assert all(len(set(epoch)) == 1 for epoch in np.reshape(actual, (20, 5)))
    np.testing.assert_allclose(actual[5:10], 0.25, atol=1e-6)
    np.testing.assert_allclose(rates(settings, (30, 33, 34), steps_per_epoch=10 / 3)[:2], 2 * [actual[45]], atol=1e-6)


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
        expected, _ = alone.update({"fc": {"kernel": jnp.array([2e3])}}, alone.init(kernel), kernel)
        assert expected["fc"]["kernel"] == updates["fc"]["kernel"]


def test_a_pattern_that_freezes_nothing_is_a_mistake(settings):
    settings.frozen = "shfit/kernel"
    with pytest.raises(UserError, match="optimizer.frozen=shfit/kernel matches no parameter's path"):
        optim.make_optimizer(settings, lambda step: 0.5).init({"shift": {"kernel": jnp.ones(1)}})


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_learning_rate_factors_scale_the_first_match(settings, name):
    settings.name, settings.weight_decay = name, 0.1
    params = {"backbone": {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}, "head": {"kernel": jnp.array([2.0])}}

    def updates(factors):
        settings.lr_factors = factors
        optimizer = optim.make_optimizer(settings, lambda step: 0.5)
        return optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)[0]

    plain, scaled = updates(""), updates("bias$=2 ^backbone/=0.125")
    expected = {"backbone": {"kernel": 0.125 * plain["backbone"]["kernel"], "bias": 2 * plain["backbone"]["bias"]}}
    assert scaled == expected | {"head": plain["head"]}


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ("backbne/=0.1", "lr_factors=backbne/ matches no parameter's path"),
        (
            "backbone/",
            r"lr_factors has 'backbone/' \(could not convert .*\); use REGEX=FACTOR",
        ),
        ("(=0.1", r"lr_factors has '\(=0.1' \(missing \)"),
        ("backbone=-1", "lr_factors has 'backbone=-1'; use REGEX=FACTOR"),
        ("=1", "lr_factors has '=1'; use REGEX=FACTOR"),
    ],
)
def test_factors_that_cannot_be_used_are_named(settings, factors, message):
    settings.lr_factors = factors
    with pytest.raises(UserError, match=message):
        optim.make_optimizer(settings, lambda step: 0.5).init({"backbone": {"kernel": jnp.ones(1)}})


def test_alpha_and_beta_do_not_decay(settings):
    params = {"block": {"alpha": 1, "beta": 1, "alphabet": {"kernel": 1, "bias": 1}}, "head": {"kernel": 1}}
    expected = {"block": {"alpha": False, "beta": False, "alphabet": {"kernel": True, "bias": True}}}
    assert optim.decay_mask(params, settings.no_decay) == expected | {"head": {"kernel": True}}


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
