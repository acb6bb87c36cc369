"""Optimizer and schedule from the config."""

import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import optax

from acmix_jax.errors import check_choice


def learning_rate_schedule(config, total_steps: int, steps_per_epoch: float) -> Callable[[int], jax.Array]:
    """Linear from `warmup_start` times the peak over `warmup_epochs`, then a cosine to zero (the released ResNet)."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    peak = config.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(config.warmup_start * peak, peak, warmup),
            optax.cosine_decay_schedule(peak, max(1, total_steps - warmup)),
        ],
        [warmup],
    )


def decay_mask(params: Any, skip: str) -> Any:
    """True for each parameter that decays: whose path, such as "backbone/stem_conv/kernel", `skip` is not found in."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return flax.traverse_util.unflatten_dict({k: not re.search(skip, k) for k in flat}, sep="/")


def make_optimizer(config, schedule: Callable[[int], jax.Array]) -> optax.GradientTransformation:
    """SGD with momentum, where decay joins the gradient before the momentum as in PyTorch; or AdamW.

    Raises:
      UserError: unknown name.
    """
    check_choice("optimizer", config.name, ("sgd", "adamw"))

    def mask(params):
        return decay_mask(params, config.no_decay)

    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), optax.sgd(schedule, config.momentum))
