"""Checks the numbers of a config before anything starts; names are checked where they are looked up."""

import re
from typing import Any

from acmix_jax.errors import UserError

_LOWEST = {  # field: smallest value that makes sense
    "batch_size": 1,
    "num_epochs": 0.0,
    "seed": 0,
    "keep_checkpoints": 2,  # one to fall back to if the newest is damaged
    "log_every": 0,
    "eval_every": 0,
    "checkpoint_every": 0,
    "label_smoothing": 0.0,
    "drop_path": 0.0,
    "dropout": 0.0,
    "data.num_classes": 2,
    "data.shift": 0,
    "data.threads": 1,
    "acmix.num_heads": 1,
    "acmix.window_size": 1,
    "acmix.kernel_size": 1,
    "optimizer.learning_rate": 0.0,
    "optimizer.warmup_epochs": 0.0,
}


_BELOW_ONE = ("label_smoothing", "drop_path", "dropout")


def check_config(config: Any) -> None:
    """Raises a UserError for the first number that is out of range, or a regular expression that is none."""
    for field, lowest in _LOWEST.items():
        value = config
        for part in field.split("."):
            if part not in value:
                raise UserError(f"the config has no field {field}: it is of another version; start a new --workdir")
            value = value[part]
        if value is not None and not value >= lowest:
            raise UserError(f"--config.{field}={value} is too small; use at least {lowest}")
        if field in _BELOW_ONE and value is not None and value >= 1:
            raise UserError(f"--config.{field}={value} is too large; it is a part of 1, such as 0.1")
    if config.num_epochs == 0:
        raise UserError("--config.num_epochs=0 trains nothing; use a larger number, parts of an epoch count too")
    try:
        re.compile(config.optimizer.no_decay)
    except re.error as error:
        raise UserError(f"--config.optimizer.no_decay={config.optimizer.no_decay!r}: {error}") from error
