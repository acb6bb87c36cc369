"""Every field of the config, once: default, valid values, meaning, and whether it may change on resume.

A new field is one new entry of FIELDS. A recipe in configs/ starts from `default_config()`; the command line sets any
field, with =: --config.optimizer.learning_rate=0.2 --config.data.mean=0.5,0.5,0.5 --config.drop_path=None.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple


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
PIXELS, PER_CHANNEL, TWO = whole(0, 2**14), (1, 3), several((2,), number(0, 100, but_not=0))  # one value or RGB
SCALES = Valid("two numbers, 0 < smallest <= largest <= 100", lambda value: TWO.accepts(value) and value[0] <= value[1])
RANGE = Valid("two numbers, 0 < smallest <= largest <= 1", lambda value: SCALES.accepts(value) and value[1] <= 1)
EPOCHS = several((), number(0, 1_000_000))
FACTOR = several((), number(0.1, 10))
FACTORS = Valid("one or more numbers from 0.1 to 10", lambda value: FACTOR.accepts(value) and len(value) > 0)
SWITCH = Valid("True or False", lambda value: isinstance(value, bool))
TEXT = Valid("text", lambda value: isinstance(value, str))
NAME, PATH = Valid("a name", TEXT.accepts), Valid("a path", TEXT.accepts)  # checked by the module that looks it up
REGEX = Valid("a regular expression", lambda value: TEXT.accepts(value) and bool(re.compile(value)))
TRACE = Valid("steps such as 100:110", _is_trace)  # or an empty text
RESUME = True

FIELDS: dict[str, Field] = {
    # The model
    "task": Field("classification", NAME, "one of acmix_jax.tasks"),
    "model": Field("acmix_resnet50", NAME, "one of acmix_jax.list_models()"),
    "head": Field(None, NAME, "head of a dense task; of segmentation semantic_fpn (the default) or upernet"),
    "head_width": Field(None, whole(1), "channels of its layers; None: its own"),
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
    "acmix.position_size": Field(None, whole(1), "image size whose position step to keep; ResNet, SAN pairwise"),
    "acmix.kernel_size": Field(3, whole(1), "width of the convolution; odd"),
    "acmix.shift_form": Field(None, NAME, "form of the convolution (ops/shift); None: by ops/choice.py", RESUME),
    "acmix.attention_form": Field(None, NAME, "ResNet's attention (ops/neighborhood); None: by ops/choice.py", RESUME),
    "acmix.shared_shift": Field(False, SWITCH, "one shift kernel for all heads, instead of one per head (the paper)"),
    "acmix.shift_init": Field(True, SWITCH, "start the convolution as shifts (the paper), unlike the released ResNet"),

    # The data
    "data.source": Field("digits", NAME, "digits, fashion_mnist, folder, records, tfds:NAME, scenes or label_maps"),
    "data.dir": Field("", PATH, "folder of the files, for sources that need one", RESUME),
    "data.num_classes": Field(None, whole(2), "outputs of the classifier; None: as many as the data has classes"),
    "data.mean": Field((0.5,), several(PER_CHANNEL, FRACTION), "of the pixels, on a scale from 0 to 1"),
    "data.std": Field((0.5,), several(PER_CHANNEL, ABOVE_0), "standard deviation, as data.mean"),
    "data.image_size": Field(0, PIXELS, "height and width after resizing; 0: images have one size already"),
    "data.short_side": Field(0, PIXELS, "of segmentation: shorter side, if long_side allows; 0: resize nothing"),
    "data.long_side": Field(2048, whole(1, 2**14), "largest longer side, with short_side"),
    "data.size_divisor": Field(32, PIXELS, "evaluate on sides that are multiples of it, with short_side; 0: on any"),
    "data.scale_range": Field((0.5, 2.0), SCALES, "smallest and largest random factor in training, with short_side"),
    "data.max_class_share": Field(0.75, ABOVE_0, "part of a crop of a label map that a class may fill; 1: all of it"),
    "data.ignore_label": Field(255, whole(0, 255), "stored label of pixels without a class"),
    "data.zero_is_ignored": Field(False, SWITCH, "stored label 0 has no class, and label 1 is the first class"),
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

    # Segmentation
    "classifier_std": Field(0.01, number(0, 100), "of the first weights of a segmenter's last layer"),
    "photometric": Field(False, SWITCH, "distort the colours of training images (ops/photometric.py)"),
    "auxiliary_weight": Field(0.4, number(0, 1000), "factor of the loss of UperNet's auxiliary head"),
    "test_scales": Field((1.0,), FACTORS, "sizes to evaluate an image at, as factors; may differ in --mode=eval"),
    "test_flip": Field(False, SWITCH, "evaluate the mirrored image, too; may differ in --mode=eval"),

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
