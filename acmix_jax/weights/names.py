"""Names in parameter paths that more than one tool relies on, such as backbone/stage1_block1/mixer/qkv/kernel.

The layers choose these names; tests/weights/test_names.py holds every entry against the networks.
"""

import re
from typing import Any

import flax

from acmix_jax.ops.window import table_window

PART_OF = {  # parameters of a mixing layer, by part of the paper's table 1; "kernel" is that of a plain ResNet's 3x3
    "qkv": "stage1", "reduce": "stage1", "reduce_norm": "stage1", "kernel": "stage1",
    "attention": "stage2_attention",
    "fc": "stage2_convolution", "shift": "stage2_convolution",
    "alpha": "rest", "beta": "rest", "proj": "rest",
}  # fmt: skip

UPGRADE = {"alpha": 1.0, "beta": 0.0, "fc/kernel": None, "fc/bias": None, "shift/kernel": None}
"""Parameters that ACmix adds to a plain attention layer, and the value with which it computes what that layer did;
None where beta = 0 makes the value free."""

BIAS_TABLE = "relative_position_bias"
"""The parameter of window attention that has a row for each offset in a window."""

NORM_AFTER = {
    "stem_conv": "stem_norm", "conv1": "norm1", "mixer": "norm2", "conv3": "norm3", "shortcut_conv": "shortcut_norm",
    "weight1": "norm2", "conv": "norm",
}  # fmt: skip
"""Linear layers and the BatchNorm that follows, both in one module, in ResNet, SAN and the heads of segmenters."""
MAP_NORM, CLASS_TOKEN = r"backbone/c\d_norm/", "backbone/class_token"
"""The norms that Swin has for dense tasks alone, and the parameter that PVT has for classification alone."""

CLASSIFIERS = ("head", "head/classifier", "auxiliary/classifier")
"""The linear layers that make logits: of images; of pixels, by the head and by the auxiliary one."""

STEMS = ("stem_conv", "patch_embed", "stage1_embed")
"""The layers that read the image."""


def input_channels(params: dict[str, Any]) -> int:
    """Number of channels of the images that a network with these parameters takes."""
    stem = next(layer for name, layer in params["backbone"].items() if name in STEMS)
    return stem["kernel"].shape[-2]


def head_of(params: dict[str, Any]) -> str | None:
    """Name of the head of a segmenter, as `create_segmenter` takes it; None for a classifier."""
    if "neck" in params:
        return "semantic_fpn"
    return "upernet" if "auxiliary" in params else None


def classifier_of(params: dict[str, Any]) -> tuple[str, int] | None:
    """Path of the layer that makes the logits of a network, and their number; None for a network without."""
    leaves = flax.traverse_util.flatten_dict(params, sep="/")
    return next(((path, len(leaves[f"{path}/bias"])) for path in CLASSIFIERS if f"{path}/bias" in leaves), None)


def block_of(path: str) -> str:
    """The part of a path that tells where in the network it lies: "stage1_block2" in the example above."""
    return next(part for part in path.split("/") if re.search(r"\d", part))


def window_of(params: dict[str, Any]) -> int | None:
    """Side of the attention windows that the bias tables are for; None without one."""
    leaves = flax.traverse_util.flatten_dict(params, sep="/")
    return next((table_window(len(leaf)) for path, leaf in leaves.items() if path.endswith(BIAS_TABLE)), None)


def window_hint(theirs: int, asked: int | str, flag: str) -> str:
    """Advice for weights of other attention windows than those asked for; `flag` sets these on the command line."""
    return (
        f"the attention windows of the weights are {theirs} pixels wide, not {asked}: "
        f"set window_size={theirs} ({flag}={theirs} on the command line)"
    )
