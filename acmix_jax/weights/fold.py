"""Folding for inference: everything that depends on the parameters alone is computed once.

`fold` composes convolution paths to ordinary convolutions where that is faster, multiplies beta into them, and scales
the layer before each BatchNorm so that a bias is all that is left of it. One factor stays in an ACmix layer, that of
the attention: alpha times the scale of the BatchNorm after it. The same `model.apply(variables, images)` takes the
result, in float32 with logits equal to 1e-5 of the largest; it can be saved and evaluated, but not trained (some of its
parameters are constants now). `main.py --mode=fold` folds a checkpoint.

A norm that is not behind a linear layer stays: those in front of a block (SAN, Swin, PVT), and SAN's over a window.
"""

from typing import Any

import flax
import jax
import numpy as np

from acmix_jax.errors import UserError
from acmix_jax.layers.norm import BatchNorm
from acmix_jax.ops import choice, shift
from acmix_jax.weights import names

Variables = dict[str, Any]


def fold(variables: Variables, largest_composed: int | None = None) -> Variables:
    """Variables of a network with one of our backbones, or of an ACmix layer, to folded ones for use without training.

    Args:
      variables: {"params": ..., "batch_stats": ...}; of a classifier or of a segmenter.
      largest_composed: convolution paths of layers with up to so many input features become one convolution; None
        for the limit of this process's backend in ops/choice.py (128 on a CPU).

    Returns:
      {"params": ..., "batch_stats": ..., "folded": ...} as NumPy arrays: "folded" replaces the removed entries.
      Without "folded" where there is nothing to fold (plain Swin and PVT).

    Raises:
      UserError: they are folded already; or heads share a shift kernel.
    """
    if "folded" in variables:
        raise UserError("these variables are folded already; use them as they are")
    flat = {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(variables).items()}
    modules = {path[1:i] for path in flat for i in range(1, len(path))}  # () is the root, which may be a layer alone
    for path in sorted(modules):
        norm = (*path[:-1], names.NORM_AFTER.get(path[-1] if path else ""))
        scale = _take_norm(flat, norm) if ("batch_stats", *norm, "mean") in flat else 1.0
        if ("params", *path, "qkv", "kernel") in flat:
            _fold_acmix(flat, path, scale, largest_composed)
        elif np.ndim(scale):
            _multiply(flat, ("params", *path), scale)
    return flax.traverse_util.unflatten_dict(flat)


def _take_norm(flat, path):
    """Removes a BatchNorm, stores its bias under "folded", and returns its scale."""
    scale, bias = (flat.pop(("params", *path, name)) for name in ("scale", "bias"))
    mean, variance = (flat.pop(("batch_stats", *path, name)) for name in ("mean", "var"))
    scale = scale / np.sqrt(variance + BatchNorm.epsilon)
    flat["folded", *path, "bias"] = bias - mean * scale
    return scale


def _multiply(flat, path, scale):
    """Scales the outputs of a linear layer."""
    for name in ("kernel", "bias"):
        if (*path, name) in flat:
            flat[*path, name] = flat[*path, name] * scale


def _fold_acmix(flat, path, scale, largest_composed):
    """The layer at `path`; `scale` is the factor of the BatchNorm behind it, 1 if there is none."""
    params, folded = ("params", *path), ("folded", *path)
    if (*params, "alpha") in flat or np.ndim(scale):
        flat[*folded, "scale"] = flat.pop((*params, "alpha"), 1.0) * scale
    if (*params, "fc", "kernel") not in flat:
        return
    (qkv, bias), (fc, fc_bias) = ([flat.get((*params, name, p)) for p in ("kernel", "bias")] for name in ("qkv", "fc"))
    dim = bias.size // len(fc)
    if flat[*params, "shift", "kernel"].shape[-1] == dim and len(fc) > 3:
        raise UserError("a network with acmix.shared_shift=True cannot be folded; use it as it is")
    _multiply(flat, (*params, "shift"), flat.pop((*params, "beta"), 1.0) * scale)
    if largest_composed is None:
        is_narrow = choice.convolution_form(len(qkv), stride=1, backend=jax.default_backend()) == "dense"
    else:
        is_narrow = len(qkv) <= largest_composed
    if not is_narrow:
        return
    is_coarse = (*params, "reduce", "kernel") in flat  # of k and v (PVT), which then cannot be composed
    fine = len(fc) // 3 if is_coarse else len(fc)
    qkv, bias = qkv[:, : fine * dim].reshape(-1, fine, dim), bias[: fine * dim].reshape(fine, dim)
    with jax.default_matmul_precision("highest"):  # once, for good
        kernels = shift.compose(qkv, bias, fc[:fine], fc_bias, flat[*params, "shift", "kernel"])
    flat[*folded, "kernel"], flat[*folded, "bias_kernel"] = map(np.asarray, kernels)
    if not is_coarse:
        for unused in [path for path in flat if path[:-1] in ((*params, "fc"), (*params, "shift"))]:
            del flat[unused]
