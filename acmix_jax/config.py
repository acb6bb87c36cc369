"""Every field of the config, once: default, valid values, meaning, and whether it may change on resume.

A new field is one new entry of FIELDS. A recipe in configs/ starts from `default_config()`; the command line sets any
field, with =: --config.optimizer.learning_rate=0.2 --config.data.mean=0.5,0.5,0.5 --config.drop_path=None.
"""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from ml_collections import config_dict

from acmix_jax.errors import UserError, check_choice


class Valid(NamedTuple):
    """The valid values of a field."""

    hint: str  # completes "use ..."
    accepts: Callable[[Any], bool]


class Field(NamedTuple):
    """One field of the config. If the default is None, None is valid, too: it stands for the model's own value."""

    default: Any
    valid: Valid
    meaning: str
    may_change: bool = False  # on resume, because it changes no result beyond rounding


def number(low: float, high: float, but_not: float | None = None, kind: type | tuple = (int, float)) -> Valid:
    """Numbers from `low` to `high`, except `but_not`; neither nan nor infinite."""

    def accepts(value):
        return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high and value != but_not

    name = "a whole number" if kind is int else "a number"
    return Valid(f"{name} from {low} to {high}" + ("" if but_not is None else f" other than {but_not}"), accepts)


def whole(low: int, high: int = 2**31 - 1) -> Valid:
    """Whole numbers from `low` to `high`."""
    return number(low, high, kind=int)


def several(lengths: tuple[int, ...], each: Valid) -> Valid:
    """Tuples or lists of one of these lengths; without lengths, of any."""

    def accepts(values):
        fits = isinstance(values, tuple | list) and (not lengths or len(values) in lengths)
        return fits and all(map(each.accepts, values))

    return Valid(f"{' or '.join(map(str, lengths)) or 'any number of'} values, each {each.hint}", accepts)


def one_of(*choices: str) -> Valid:
    """One of these texts."""
    return Valid(" or ".join(choices), lambda value: value in choices)


def _is_trace(value):
    steps = isinstance(value, str) and re.fullmatch(r"(\d+):(\d+)", value or "0:0")
    return bool(steps) and int(steps[1]) <= int(steps[2])


FRACTION, ABOVE_0, BELOW_1 = number(0, 1), number(0, 1, but_not=0), number(0, 1, but_not=1)
PIXELS, PER_CHANNEL, TWO = whole(0, 2**14), (1, 3), several((2,), ABOVE_0)  # one value for all channels, or RGB
RANGE = Valid("two numbers, 0 < smallest <= largest <= 1", lambda value: TWO.accepts(value) and value[0] <= value[1])
EPOCHS = several((), number(0, 1_000_000))
SWITCH = Valid("True or False", lambda value: isinstance(value, bool))
TEXT = Valid("text", lambda value: isinstance(value, str))
NAME = Valid("a name", TEXT.accepts)  # checked by the module that looks it up
PATH = Valid("a path", TEXT.accepts)
REGEX = Valid("a regular expression", lambda value: TEXT.accepts(value) and bool(re.compile(value)))
TRACE = Valid("steps such as 100:110", _is_trace)  # or an empty text
RESUME = True

FIELDS: dict[str, Field] = {
    # The model
    "task": Field("classification", NAME, "one of acmix_jax.tasks"),
    "model": Field("acmix_resnet50", NAME, "one of acmix_jax.list_models()"),
    "dtype": Field("float32", one_of("float32", "bfloat16"), "of the computation; parameters stay float32"),
    "seed": Field(0, whole(0, 2**32 - 1), "of initialisation, shuffling and augmentation"),
    "drop_path": Field(None, BELOW_1, "stochastic depth rate of the last block of Swin and PVT"),
    "dropout": Field(0.0, BELOW_1, "rate in Swin and PVT"),
    "init_from": Field("", PATH, "workdir or converted weights to start from; plain SAN, PVT and Swin fit acmix_*"),

    # ACmix layers; only models named acmix_* have them, except for window_size
    "acmix.paths": Field("both", one_of("both", "attention", "convolution"), "paths to compute"),
    "acmix.combination": Field("learned", one_of("learned", "convex", "fixed"),
                               "alpha and beta: each learned; alpha and 1 - alpha; 0.5 and 0.5"),
    "acmix.num_heads": Field(None, whole(1), "attention heads; ResNet only"),
    "acmix.window_size": Field(None, whole(1), "width of the attention window, in pixels; of plain Swin and SAN, too"),
    "acmix.kernel_size": Field(3, whole(1), "width of the convolution; odd"),
    "acmix.shift_form": Field(None, NAME, "form of the convolution (ops/shift); None: by ops/choice.py", RESUME),
    "acmix.attention_form": Field(None, NAME, "ResNet's attention (ops/neighborhood); None: by ops/choice.py", RESUME),
    "acmix.shared_shift": Field(False, SWITCH, "one shift kernel for all heads, instead of one per head (the paper)"),
    "acmix.shift_init": Field(True, SWITCH, "start the convolution as shifts (the paper), unlike the released ResNet"),

    # The data
    "data.source": Field("digits", NAME, "digits, fashion_mnist, folder, records (by data.prepare) or tfds:NAME"),
    "data.dir": Field("", PATH, "folder of the files, for sources that need one", RESUME),
    "data.num_classes": Field(None, whole(2), "outputs of the classifier; None: as many as the data has classes"),
    "data.mean": Field((0.5,), several(PER_CHANNEL, FRACTION), "of the pixels, on a scale from 0 to 1"),
    "data.std": Field((0.5,), several(PER_CHANNEL, ABOVE_0), "standard deviation, as data.mean"),
    "data.image_size": Field(0, PIXELS, "height and width after resizing; 0: images have one size already"),
    "data.interpolation": Field("bilinear", one_of("bilinear", "bicubic"), "when resizing"),
    "data.random_crop": Field(False, SWITCH, "train on random crops, resized to image_size"),
    "data.crop_scale": Field((0.08, 1.0), RANGE, "smallest and largest fraction of the area in a random crop"),
    "data.eval_resize": Field(0, PIXELS, "shorter side before the centre crop in evaluation; 0: no crop"),
    "data.shift": Field(0, PIXELS, "largest random translation in training, in pixels"),
    "data.flip": Field(False, SWITCH, "mirror training images at random"),
    "data.rand_augment": Field(False, SWITCH, "RandAugment m9-mstd0.5-inc1; RGB only"),
    "data.repeats": Field(1, whole(1, 1000), "augmented copies of an image in a row; the rows per epoch stay the same"),
    "data.damaged": Field("fail", one_of("fail", "skip"), "at a corrupt image: stop, or take the next one", RESUME),
    "data.threads": Field(4, whole(1, 1024), "threads that prepare batches, per worker", RESUME),
    "data.workers": Field(0, whole(0, 1024), "processes that prepare batches; 0: the main process", RESUME),

    # The step
    "batch_size": Field(64, whole(1), "images per step, over all devices"),
    "accumulate": Field(1, whole(1), "passes per step, each with a part of the batch, to save memory"),
    "remat": Field(False, SWITCH, "recompute each block for its gradient: less memory, more time", RESUME),
    "fsdp": Field(1, whole(1), "devices that share one copy of the parameters and the optimizer state", RESUME),
    "batch_norm_groups": Field(1, whole(1), "parts of a pass that BatchNorm normalises separately"),
    "ema": Field(0.0, BELOW_1, "decay of the moving average of the weights to evaluate with, e.g. 0.9999; 0: none"),
    "num_epochs": Field(1.0, number(0, 1_000_000, but_not=0), "length of the training; may be a fraction"),
    "label_smoothing": Field(0.1, BELOW_1, "probability taken from the right class"),
    "label_smoothing_over_all": Field(False, SWITCH, "give it to all classes (PVT, Swin), not only to the wrong ones"),
    "random_erasing": Field(0.0, FRACTION, "probability that a training image gets a rectangle of noise"),
    "mixup": Field(0.0, number(0, 100), "parameter of the Beta distribution; 0: no mixup"),
    "cutmix": Field(0.0, number(0, 100), "as mixup; if both are on, each group of 128 images draws one of them"),

    # The optimizer and its schedule, after a linear warm-up
    "optimizer.name": Field("sgd", one_of("sgd", "adamw"), "SGD has momentum"),
    "optimizer.learning_rate": Field(0.1, number(0, 1e9), "at the peak"),
    "optimizer.reference_batch": Field(0, whole(0), "scale the rate by batch_size over this; 0: do not scale"),
    "optimizer.schedule": Field("cosine", one_of("cosine", "steps", "poly"), "see training/optim.py"),
    "optimizer.milestones": Field((), EPOCHS, "of steps: epochs at whose start the rate changes, such as 8,11"),
    "optimizer.gamma": Field(0.1, FRACTION, "of steps: factor at each milestone"),
    "optimizer.power": Field(1.0, number(0, 100), "of poly"),
    "optimizer.warmup_epochs": Field(5.0, number(0, 1_000_000), "length of the warm-up"),
    "optimizer.warmup_steps": Field(0, whole(0), "its length in steps, instead of warmup_epochs; 0: warmup_epochs"),
    "optimizer.warmup_start": Field(0.25, FRACTION, "first learning rate, as a fraction of the peak"),
    "optimizer.restart": Field(True, SWITCH, "start the cosine after the warm-up, at the peak; else at epoch 0"),
    "optimizer.final": Field(0.0, FRACTION, "last learning rate, as a fraction of the peak"),
    "optimizer.per_epoch": Field(False, SWITCH, "change the learning rate once per epoch, not at each step"),
    "optimizer.clip_norm": Field(0.0, number(0, 1_000_000), "largest norm of the gradient; 0: no clipping"),
    "optimizer.momentum": Field(0.9, BELOW_1, "of SGD"),
    "optimizer.weight_decay": Field(1e-4, number(0, 1e9), "of all parameters that no_decay does not match"),
    "optimizer.no_decay": Field("(^|/)(alpha|beta)$", REGEX, "paths of parameters without weight decay"),
    "optimizer.frozen": Field("", REGEX, "paths of parameters to keep at their initial values; empty: none"),
    "optimizer.lr_factors": Field("", TEXT, "REGEX=FACTOR ..., of paths to scale the rate of, such as ^backbone/=0.1"),

    # Several processes
    "distributed.coordinator": Field("", TEXT, "empty: one process; auto (TPU pods, SLURM) or HOST:PORT", RESUME),
    "distributed.num_processes": Field(1, whole(1), "with HOST:PORT", RESUME),
    "distributed.process_id": Field(0, whole(0), "with HOST:PORT; counted from 0", RESUME),

    # Logs and checkpoints; 0 steps: never
    "log_examples": Field(False, SWITCH, "write each step's image indices to examples_PROCESS.jsonl", RESUME),
    "wandb_project": Field("", TEXT, "also log to this project of Weights & Biases (pip install wandb)", RESUME),
    "log_every": Field(50, whole(0), "steps between rows of metrics", RESUME),
    "eval_every": Field(1000, whole(0), "steps between evaluations; there is always one at the end", RESUME),
    "checkpoint_every": Field(1000, whole(0), "steps between checkpoints; each evaluation saves one, too", RESUME),
    "profile_steps": Field("", TRACE, "steps to trace for xprof or TensorBoard, such as 100:110", RESUME),
    "keep_checkpoints": Field(2, whole(2), "newest ones to keep, besides the best; 2, in case one is corrupt", RESUME),
    "best_metric": Field("", NAME, "metric that the best checkpoint is chosen by; empty: the task's main one", RESUME),
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
    _check_images(config)
    _check_batch(config)
    if config.distributed.process_id >= config.distributed.num_processes:
        raise UserError(
            f"--config.distributed.process_id={config.distributed.process_id} counts from 0; use a number below "
            f"num_processes={config.distributed.num_processes}"
        )


def _check_value(name, field, value):
    reason = ""
    try:
        valid = field.default is None if value is None else field.valid.accepts(value)
    except re.error as error:
        valid, reason = False, f" ({error})"
    if not valid:
        hint = field.valid.hint + (", or None" if field.default is None else "")
        raise UserError(f"--config.{name}={value} is not valid{reason}; use {hint}")


def _check_images(config):
    size, resize = config.data.image_size, config.data.eval_resize
    needs_size = config.data.source in ("folder", "records") or config.data.random_crop or config.data.rand_augment
    if not size and needs_size:
        raise UserError("--config.data.image_size=0 leaves images of several sizes; set it, such as to 224")
    if 0 < resize < size:
        raise UserError(
            f"--config.data.eval_resize={resize} is less than image_size={size}; set it to {int(size * 256 / 224)}, or "
            "to 0 to evaluate the whole image"
        )


def _check_batch(config):
    batch_size, passes, groups = config.batch_size, config.accumulate, config.batch_norm_groups
    if batch_size % passes:
        raise UserError(f"--config.accumulate={passes} does not divide batch_size={batch_size}; use a divisor of it")
    if (images := batch_size // passes) % groups:
        raise UserError(
            f"--config.batch_norm_groups={groups} does not divide the {images} images of a pass (batch_size / "
            "accumulate); use a divisor of their number"
        )
