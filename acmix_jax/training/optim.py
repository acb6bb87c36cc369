"""Optimizer and schedule from the config."""

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
    """A linear warm-up and a cosine; with the fields of `config` as each family's released code has them.

    ResNet: by step, the cosine restarts at the peak after the warm-up. SAN: by epoch, no warm-up. PVT: by epoch, and
    Swin: by step, the cosine goes on where it would be without the warm-up, to a hundredth of the peak.
    """
    peak = config.learning_rate * (batch_size / config.reference_batch if config.reference_batch else 1)
    warmup = min(config.warmup_epochs, num_epochs)
    begin = warmup if config.restart else 0.0

    def learning_rate(step):
        epoch = step / steps_per_epoch
        epoch = jnp.floor(epoch + 1e-6) if config.per_epoch else epoch
        done = jnp.clip((epoch - begin) / max(num_epochs - begin, 1e-9), 0, 1)
        cosine = config.final + (1 - config.final) * (1 + jnp.cos(jnp.pi * done)) / 2
        linear = config.warmup_start + (1 - config.warmup_start) * epoch / max(warmup, 1e-9)
        return peak * jnp.where(epoch < warmup, linear, cosine)

    return learning_rate


def decay_mask(params: Any, *skip: str) -> Any:
    """True for each parameter that decays: in whose path, such as "backbone/stem_conv/kernel", none of `skip` is."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    decays = {path: not any(re.search(pattern, path) for pattern in skip if pattern) for path in flat}
    return flax.traverse_util.unflatten_dict(decays, sep="/")


def _frozen_mask(params, frozen):
    mask = jax.tree.map(lambda decays: not decays, decay_mask(params, frozen))
    if not any(jax.tree.leaves(mask)):
        raise UserError(
            f"--config.optimizer.frozen={frozen} is found in no parameter's path; they are printed when a run starts"
        )
    return mask


def make_optimizer(config, schedule: Callable[[int], jax.Array]) -> optax.GradientTransformation:
    """SGD with momentum, where decay joins the gradient before the momentum as in PyTorch; or AdamW.

    Parameters that `frozen` names keep their values: no gradient, no decay.

    Raises:
      UserError: unknown name; or, when it meets the parameters, `frozen` names none.
    """
    check_choice("optimizer", config.name, ("sgd", "adamw"))

    def mask(params):
        return decay_mask(params, config.no_decay, config.frozen)

    if config.name == "adamw":
        steps = [optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)]
    else:
        steps = [optax.add_decayed_weights(config.weight_decay, mask), optax.sgd(schedule, config.momentum)]
    frozen = optax.masked(optax.set_to_zero(), lambda params: _frozen_mask(params, config.frozen))
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*([frozen] if config.frozen else []), *clip, *steps)
