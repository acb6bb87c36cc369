"""The config of a run: made, checked, restored. See fields.py for every field."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections import config_dict

from acmix_jax.config.fields import FIELDS, PATH
from acmix_jax.errors import UserError, check_choice

_OF_TASK = {  # fields that the other task does not look at
    "classification": (
        "label_smoothing", "label_smoothing_over_all", "random_erasing", "mixup", "cutmix", "data.random_crop",
        "data.crop_scale", "data.eval_resize", "data.shift", "data.rand_augment",
    ),
    "segmentation": (
        "head", "head_width", "classifier_std", "photometric", "auxiliary_weight", "test_scales", "test_flip",
        "data.short_side", "data.long_side", "data.size_divisor", "data.scale_range", "data.max_class_share",
        "data.ignore_label", "data.zero_is_ignored",
    ),
}  # fmt: skip


def default_config() -> ml_collections.ConfigDict:
    """A new config with the default of every field, for a recipe to change."""
    tree = {}
    for name, field in FIELDS.items():
        section, _, key = name.rpartition(".")
        # As an object, a field whose default is None takes any literal on the command line, None included.
        value = config_dict.placeholder(object) if field.default is None else field.default
        (tree.setdefault(section, {}) if section else tree)[key] = value
    return ml_collections.ConfigDict(tree)


def restore_config(saved: Mapping[str, Any], folder: Path = Path()) -> ml_collections.ConfigDict:
    """The config of an earlier run in `folder`, from its config.json; fields that were added later get their defaults.

    Raises:
      UserError: a value is of another type than the field.
    """
    config = default_config()
    try:
        config.update(saved)
    except TypeError as error:
        raise UserError(f"{folder / 'config.json'} is corrupt or of another version ({error}); restore it") from error
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by the names of FIELDS, such as "optimizer.momentum"."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def follow_data(config: ml_collections.ConfigDict, num_classes: int) -> ml_collections.ConfigDict:
    """The config; where its number of classes is None, a copy with this one."""
    if config.data.num_classes is None:
        config = config.copy_and_resolve_references()
        config.data.num_classes = num_classes
    return config


def may_change(name: str) -> bool:
    """True for a field that a resumed run may set anew."""
    return name in FIELDS and FIELDS[name].may_change


def expand_path(path: str | os.PathLike) -> str:
    """Replaces a leading ~ or ~user and each $NAME, as a shell would.

    Raises:
      UserError: there is no such user or variable.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    if expanded.startswith("~") or re.search(r"\$(\w|\{)", expanded):
        raise UserError(f"{os.fspath(path)} names a user or a variable that does not exist; write the path out")
    return expanded


def local_path(path: str) -> Path:
    """The type of a command's arguments that are paths; see `expand_path`."""
    try:
        return Path(expand_path(path))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error  # the only error whose text argparse prints


def expand_paths(config: ml_collections.ConfigDict) -> None:
    """Expands all paths of a config in place; see `expand_path`."""
    values = flatten(config.to_dict())
    paths = [name for name, field in FIELDS.items() if field.valid is PATH]
    config.update_from_flattened_dict({name: expand_path(values[name]) for name in paths})


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises a UserError for the first field that is unknown, missing, or not valid by itself or beside the others."""
    values = flatten(config.to_dict())
    for name in values:
        check_choice("config field", name, FIELDS)
    for name, field in FIELDS.items():
        if name not in values:
            raise UserError(f"the config has no field {name}; start from acmix_jax.config.default_config()")
        _check_value(name, field, values[name])
    _check_task(config.task, values)
    _check_images(config)
    _check_batch(config)
    process, processes = config.distributed.process_id, config.distributed.num_processes
    if process >= processes:
        hint = f"use a number below num_processes={processes}"
        raise UserError(f"--config.distributed.process_id={process} counts from 0; {hint}")


def _check_value(name, field, value):
    reason = ""
    try:
        valid = field.default is None if value is None else field.valid.accepts(value)
    except re.error as error:
        valid, reason = False, f" ({error})"
    if not valid:
        hint = field.valid.hint + (", or None" if field.default is None else "")
        raise UserError(f"--config.{name}={value} is not valid{reason}; use {hint}")


def _check_task(task, values):
    others = [other for other in _OF_TASK if other != task] if task in _OF_TASK else []
    for other in others:
        for name in _OF_TASK[other]:
            value, default = values[name], FIELDS[name].default
            if (tuple(value) if isinstance(value, list) else value) != default:
                hint = f"leave it at {default} with task={task}"
                raise UserError(f"--config.{name}={value} is of {other}; {hint}")


def _check_images(config):
    size, resize = config.data.image_size, config.data.eval_resize
    are_many = config.data.source in ("folder", "records", "label_maps")
    if not size and (are_many or config.data.random_crop or config.data.rand_augment):
        raise UserError("--config.data.image_size=0 leaves images of several sizes; set it, such as to 224")
    if 0 < resize < size:
        hint = f"set it to {int(size * 256 / 224)}, or to 0 to evaluate the whole image"
        raise UserError(f"--config.data.eval_resize={resize} is less than image_size={size}; {hint}")


def _check_batch(config):
    batch_size, passes, groups = config.batch_size, config.accumulate, config.batch_norm_groups
    if batch_size % passes:
        raise UserError(f"--config.accumulate={passes} does not divide batch_size={batch_size}; use a divisor of it")
    if (images := batch_size // passes) % groups:
        raise UserError(
            f"--config.batch_norm_groups={groups} does not divide the {images} images of a pass (batch_size / "
            "accumulate); use a divisor of their number"
        )
