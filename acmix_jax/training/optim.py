"""The learning-rate schedule and the optimizer of a config."""

import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from acmix_jax.errors import UserError, check_choice


def learning_rate_schedule(
    config, num_epochs: float, steps_per_epoch: float, batch_size: int
) -> Callable[[int], jax.Array]:
    """Step -> learning rate, float32: `config.schedule` after a linear warm-up.

    cosine: as each family's released code has it. ResNet: by step, the cosine restarts at the peak after the warm-up.
    SAN: by epoch, no warm-up. PVT: by epoch, and Swin: by step, the cosine goes on where it would be without the
    warm-up, to a hundredth of the peak.
    steps: the peak times `gamma` for each epoch of `milestones` that has begun (mmdet's step policy).
    poly: final + (1 - final) * (1 - progress) ** `power`, as a fraction of the peak (mmseg's poly policy).
    For steps and poly, the warm-up is a factor on the schedule, as in mmcv.

    Raises:
      UserError: unknown schedule.
    """
    check_choice("optimizer.schedule", config.schedule, ("cosine", "steps", "poly"))
    peak = config.learning_rate * (batch_size / config.reference_batch if config.reference_batch else 1)
    warmup = config.warmup_steps / steps_per_epoch if config.warmup_steps else config.warmup_epochs
    warmup = min(warmup, num_epochs)
    begin = warmup if config.restart else 0.0

    def learning_rate(step):
        exact = jnp.asarray(step, jnp.float32) / steps_per_epoch
        epoch = jnp.floor(exact + 1e-6) if config.per_epoch else exact
        warm = exact if config.warmup_steps else epoch
        linear = config.warmup_start + (1 - config.warmup_start) * warm / max(warmup, 1e-9)
        if config.schedule == "cosine":
            done = jnp.clip((epoch - begin) / max(num_epochs - begin, 1e-9), 0, 1)
            cosine = config.final + (1 - config.final) * (1 + jnp.cos(jnp.pi * done)) / 2
            return peak * jnp.where(warm < warmup, linear, cosine)
        if config.schedule == "steps":
            scheduled = config.gamma ** sum(jnp.where(epoch + 1e-6 >= m, 1.0, 0.0) for m in config.milestones)
        else:
            done = jnp.clip(epoch / num_epochs, 0, 1)
            scheduled = config.final + (1 - config.final) * (1 - done) ** config.power
        return peak * jnp.where(warm < warmup, linear, 1.0) * scheduled

    return learning_rate


def decay_mask(params: Any, *skip: str) -> Any:
    """Mask of the parameters to decay: False where a regex of `skip` matches the path, e.g. "backbone/stem/kernel"."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    decays = {path: not any(re.search(pattern, path) for pattern in skip if pattern) for path in flat}
    return flax.traverse_util.unflatten_dict(decays, sep="/")


def make_optimizer(config, schedule: Callable[[int], jax.Array]) -> optax.GradientTransformation:
    """SGD with momentum, where decay joins the gradient before the momentum as in PyTorch; or AdamW.

    Parameters that `frozen` matches keep their values: no gradient, no decay. Updates of parameters that a regex of
    `lr_factors` matches are scaled by its factor, i.e. their learning rate is.

    Raises:
      UserError: unknown name; `lr_factors` cannot be read; or, when it gets the parameters, a regex matches none.
    """
    check_choice("optimizer", config.name, ("sgd", "adamw"))
    factors = parse_factors(config.lr_factors)

    def mask(params):
        return decay_mask(params, config.no_decay, config.frozen)

    steps = []
    if config.frozen:
        steps.append(optax.masked(optax.set_to_zero(), lambda params: _frozen_mask(params, config.frozen)))
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "adamw":
        steps.append(optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask))
    else:
        steps += [optax.add_decayed_weights(config.weight_decay, mask), optax.sgd(schedule, config.momentum)]
    if factors:
        steps.append(_scale_by_path(factors))
    return optax.chain(*steps)


def parse_factors(text: str) -> list[tuple[str, float]]:
    """Regexes and learning-rate factors from "REGEX=FACTOR REGEX=FACTOR ...", e.g. "^backbone/=0.1".

    Raises:
      UserError: a part has not this form, or its regex or factor is invalid.
    """
    factors, hint = [], "use REGEX=FACTOR, such as ^backbone/=0.1"
    for part in text.split():
        pattern, separator, number = part.rpartition("=")
        try:
            factor = float(number)
            re.compile(pattern)
        except (ValueError, re.error) as error:
            raise UserError(f"--config.optimizer.lr_factors has {part!r} ({error}); {hint}") from error
        if not (separator and pattern and 0 <= factor < float("inf")):
            raise UserError(f"--config.optimizer.lr_factors has {part!r}; {hint}")
        factors.append((pattern, factor))
    return factors


def _scale_by_path(factors):
    """Scales each update by the factor of the first regex that matches its path."""

    def factor_of(path):
        return next((factor for pattern, factor in factors if re.search(pattern, path)), 1.0)

    def init(params):
        paths = list(flax.traverse_util.flatten_dict(params, sep="/"))
        for pattern, _ in factors:
            _check_matched("lr_factors", pattern, any(re.search(pattern, path) for path in paths))
        return optax.EmptyState()

    def update(updates, state, params=None):
        flat = flax.traverse_util.flatten_dict(updates, sep="/")
        scaled = {path: factor_of(path) * leaf for path, leaf in flat.items()}
        return flax.traverse_util.unflatten_dict(scaled, sep="/"), state

    return optax.GradientTransformation(init, update)


def _frozen_mask(params, frozen):
    mask = jax.tree.map(lambda decays: not decays, decay_mask(params, frozen))
    _check_matched("frozen", frozen, any(jax.tree.leaves(mask)))
    return mask


def _check_matched(field, pattern, matched):
    if not matched:
        raise UserError(
            f"--config.optimizer.{field}={pattern} matches no parameter's path; they are printed when a run starts"
        )
