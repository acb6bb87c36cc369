"""Checks the numbers of a config before anything starts; names are checked where they are looked up."""

import re
from typing import Any

from acmix_jax.errors import UserError, check_choice

_LOWEST = {  # field: smallest value that makes sense
    "batch_size": 1,
    "accumulate": 1,
    "fsdp": 1,
    "batch_norm_groups": 1,
    "ema": 0.0,
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
    "data.workers": 0,
    "data.image_size": 0,
    "data.eval_resize": 0,
    "data.repeats": 1,
    "acmix.num_heads": 1,
    "acmix.window_size": 1,
    "acmix.kernel_size": 1,
    "optimizer.learning_rate": 0.0,
    "optimizer.warmup_epochs": 0.0,
    "optimizer.warmup_steps": 0,
    "optimizer.gamma": 0.0,
    "optimizer.power": 0.0,
    "optimizer.reference_batch": 0,
    "optimizer.clip_norm": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}


_BELOW_ONE = ("label_smoothing", "drop_path", "dropout", "ema")


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
    check_choice("data.interpolation", config.data.interpolation, ("bilinear", "bicubic"))
    check_choice("data.damaged", config.data.damaged, ("fail", "skip"))
    files = config.data.source in ("folder", "records")
    if not config.data.image_size and (files or config.data.random_crop or config.data.rand_augment):
        raise UserError("--config.data.image_size=0 leaves images of several sizes; set it, such as to 224")
    size, resize = config.data.image_size, config.data.eval_resize
    if 0 < resize < size:
        raise UserError(
            f"--config.data.eval_resize={resize} is less than image_size={size}; set it to {int(size * 256 / 224)}, or "
            "to 0 to evaluate the whole image"
        )
    if config.batch_size % config.accumulate:
        raise UserError(f"--config.accumulate={config.accumulate} does not divide batch_size={config.batch_size}")
    parts = config.accumulate * config.batch_norm_groups
    if config.batch_size % parts:
        raise UserError(
            f"--config.batch_norm_groups={config.batch_norm_groups} does not divide the "
            f"{config.batch_size // config.accumulate} images that go through the model at once"
        )
    if config.num_epochs == 0:
        raise UserError("--config.num_epochs=0 trains nothing; use a larger number, parts of an epoch count too")
    steps = re.fullmatch(r"(\d+):(\d+)", config.profile_steps or "0:0")
    if not steps or int(steps[1]) > int(steps[2]):
        raise UserError(f"--config.profile_steps={config.profile_steps} is no range of steps, such as 100:110")
    for field in ("no_decay", "frozen"):
        try:
            re.compile(config.optimizer[field])
        except re.error as error:
            raise UserError(f"--config.optimizer.{field}={config.optimizer[field]!r}: {error}") from error
