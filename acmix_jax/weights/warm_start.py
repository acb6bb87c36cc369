"""Initialises a network from trained weights: of the same network, of one with other classes, of the plain network that
an ACmix network extends, or of a classifier with the same backbone.

A plain SAN, PVT or Swin becomes its ACmix network with alpha = 1, beta = 0 and a freshly initialised convolution: at
first that computes exactly the same as the plain network. The gradient of beta is not zero; the convolution's own
parameters get one once beta has moved.

A head for as many classes is taken over whatever their names are, and one for another number is not (of a segmenter,
the layers that make logits): see stored.read_into, which warns if the names differ.

The network of another task takes the whole backbone of a classifier and drops the rest, with the class token. The norms
that Swin has on its maps for dense tasks stay fresh.
"""

import re
from collections import Counter
from typing import Any

import flax
import numpy as np

from acmix_jax.errors import UserError, first_few
from acmix_jax.ops.window import table_window
from acmix_jax.weights.names import BIAS_TABLE, CLASS_TOKEN, CLASSIFIERS, MAP_NORM, UPGRADE, window_hint

Variables = dict[str, Any]

_HEAD = "params/head/kernel"  # only a classifier has it


def merge(fresh: Variables, trained: Variables) -> tuple[Variables, str]:
    """Puts trained weights in place of fresh ones.

    Args:
      fresh: variables of the network to initialise, {"params": ..., "batch_stats": ...}.
      trained: variables of the same network, or of one that differs as described above.

    Returns:
      Variables of the shapes of `fresh`, as NumPy arrays, and a summary as text. A head for another number of classes
      stays fresh.

    Raises:
      UserError: they do not fit, or are not finite; lists the first differences.
    """
    fresh, trained = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (fresh, trained))
    other_task = _HEAD in trained and _HEAD not in fresh
    kept, dropped = _resized_heads(fresh, trained), set()
    if other_task:
        kept = {path for path in fresh if not _is_backbone(path) or re.match(f"params/{MAP_NORM}", path)}
        only_there = trained.keys() - fresh.keys()
        dropped = {path for path in only_there if not _is_backbone(path) or path == f"params/{CLASS_TOKEN}"}

    merged, upgraded, problems, windows = {}, set(), [], _other_window(fresh, trained)
    for path, leaf in fresh.items():
        layer, _, part = path.partition("/mixer/")
        is_plain = f"{layer}/mixer/qkv/kernel" in trained and f"{layer}/mixer/alpha" not in trained
        if path in kept:
            merged[path] = leaf
        elif path in trained and trained[path].shape == leaf.shape:
            merged[path] = np.asarray(trained[path], leaf.dtype)
            if not np.isfinite(merged[path]).all():
                problems.append(f"{path} has values that are NaN or infinite")
        elif path in trained and windows and path.endswith(BIAS_TABLE):
            continue
        elif path in trained:
            problems.append(f"{path} is {trained[path].shape} instead of {leaf.shape}")
        elif is_plain and part in UPGRADE:
            merged[path] = leaf if UPGRADE[part] is None else np.asarray(UPGRADE[part], leaf.dtype)
            upgraded.add(layer)
        else:
            problems.append(f"{path} is missing")
    problems += [f"{path} is left over" for path in trained if path not in fresh and path not in dropped]
    if problems or windows:
        few = [first_few(problems, count=5, width=100)] if problems else []
        raise UserError(f"the weights do not fit: {'; '.join(windows + few)}")

    if other_task:
        summary = [f"{len(fresh) - len(kept)} tensors of the backbone", f"{len(kept)} others stay fresh"]
    else:
        summary = [f"{len(fresh)} tensors"]
    if upgraded:
        summary.append(f"{len(upgraded)} plain layers upgraded to ACmix (alpha 1, beta 0)")
    if kept and not other_task:
        (count,) = {len(fresh[path]) for path in kept if path.endswith("bias")}
        summary.append(f"a new head for {count} classes")
    if dropped:
        parts = Counter(path.split("/")[2 if _is_backbone(path) else 1] for path in dropped)
        summary.append("dropped " + " and ".join(f"{count} of {part}" for part, count in sorted(parts.items())))
    return flax.traverse_util.unflatten_dict(merged, sep="/"), ", ".join(summary)


def _other_window(fresh, trained):
    """Hint to set the window, if the trained weights are for attention windows of one other size."""
    tables = [path for path in fresh if path in trained and path.endswith(BIAS_TABLE)]
    sizes = {(table_window(len(trained[path])), table_window(len(fresh[path]))) for path in tables}
    if len(sizes) != 1:
        return []
    ((theirs, asked),) = sizes
    return [window_hint(theirs, asked, "--config.acmix.window_size")] * (theirs != asked)


def _is_backbone(path):
    return path.split("/")[1] == "backbone"


def _resized_heads(fresh, trained):
    """The parameters of the layers that make logits for another number of classes."""
    layers = [f"params/{layer}/{leaf}" for layer in CLASSIFIERS for leaf in ("kernel", "bias")]
    both = [(path, fresh[path].shape, trained[path].shape) for path in layers if path in fresh and path in trained]
    return {path for path, ours, theirs in both if ours != theirs and ours[:-1] == theirs[:-1]}
