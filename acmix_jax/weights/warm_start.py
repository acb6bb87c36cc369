"""Starting from trained weights: of the same network, of one with other classes, or of the plain network under ACmix.

A plain SAN, PVT or Swin becomes its ACmix network with alpha = 1, beta = 0 and the convolution as it is initialised:
at first that computes exactly what the plain network does. The gradient of beta is not zero; the convolution's own
parameters get theirs once beta has moved.
"""

from pathlib import Path
from typing import Any

import flax
import numpy as np

from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.weights.stored import read_trainable

Variables = dict[str, Any]

_START = {"alpha": 1.0, "beta": 0.0, "fc/kernel": None, "fc/bias": None, "shift/kernel": None}
"""What ACmix adds to a plain mixing layer, and the value that it starts from; None for its own initialisation."""


def read_into(fresh: Variables, folder: Path) -> tuple[Variables, str]:
    """`merge` with the newest checkpoint of a workdir, or with the weights that acmix_jax.convert wrote.

    Raises:
      UserError: there is no checkpoint, it cannot be read, or it does not fit.
    """
    model = workdir.model_of(folder)
    step, variables = read_trainable(folder)
    try:
        merged, words = merge(fresh, variables)
    except UserError as error:
        hint = "; only SAN, PVT and Swin can be upgraded from plain to ACmix" if model.startswith("resnet") else ""
        raise UserError(f"--config.init_from={folder} holds weights of {model}{hint}; {error}") from error
    return merged, f"{folder} ({model}) at step {step}: {words}"


def merge(fresh: Variables, trained: Variables) -> tuple[Variables, str]:
    """Trained weights in the place of fresh ones.

    Args:
      fresh: variables of the network that is to start, {"params": ..., "batch_stats": ...}.
      trained: variables of the same network, or of one that differs as described above.

    Returns:
      Variables of the shapes of `fresh`, as NumPy arrays, and what happened, in words. A head for another number of
      classes stays fresh.

    Raises:
      UserError: they do not fit; lists every difference.
    """
    fresh, trained = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (fresh, trained))
    merged, upgraded, problems = {}, set(), []
    new_head = {
        p for p in fresh if p.startswith("params/head/") and p in trained and trained[p].shape != fresh[p].shape
    }
    for path, leaf in fresh.items():
        layer, _, part = path.partition("/mixer/")
        is_plain = f"{layer}/mixer/qkv/kernel" in trained and f"{layer}/mixer/alpha" not in trained
        if path in new_head:
            merged[path] = leaf
        elif path in trained and trained[path].shape == leaf.shape:
            merged[path] = np.asarray(trained[path], leaf.dtype)
        elif path in trained:
            problems.append(f"{path} is {trained[path].shape} instead of {leaf.shape}")
        elif is_plain and part in _START:
            merged[path] = leaf if _START[part] is None else np.asarray(_START[part], leaf.dtype)
            upgraded.add(layer)
        else:
            problems.append(f"{path} is missing")
    problems += [f"{path} is left over" for path in trained if path not in fresh]
    if problems:
        raise UserError(f"the weights do not fit: {'; '.join(problems)}")
    words = [f"{len(fresh)} tensors"]
    if upgraded:
        words.append(f"{len(upgraded)} plain layers upgraded to ACmix (alpha 1, beta 0)")
    if new_head:
        words.append(f"a new head for {len(fresh['params/head/bias'])} classes")
    return flax.traverse_util.unflatten_dict(merged, sep="/"), ", ".join(words)
