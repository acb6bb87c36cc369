"""Compares the tensors of a state dict with those of a model, and says in one line how they differ."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from acmix_jax.convert.find import Found
from acmix_jax.errors import UserError, first_few
from acmix_jax.ops.window import table_window
from acmix_jax.weights.names import window_hint

TORCH_BIAS_TABLE = "relative_position_bias_table"


def is_float(array: np.ndarray) -> bool:
    """True for all floating-point types; NumPy does not know that bfloat16 is one."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def check(
    name: str, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], found: Found, head: str
) -> None:
    """Raises a UserError that says how tensors differ from those expected: in names, shapes, types; or as not finite.

    Args:
      name: of the model, for the message.
      expected: shapes by name.
      found: where the tensors come from.
      head: name of the classifier, such as "fc".
    """
    both = sorted(key for key in expected if key in tensors)
    windows = _other_window(expected, tensors)
    differences = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "left over": sorted(tensors.keys() - expected.keys()),
        "of another type": [f"{key} {tensors[key].dtype}" for key in both if not is_float(tensors[key])],
    }
    if differences["missing"]:
        differences["left over"] += found.beside
    differences["of another shape"] = [
        f"{key} {tensors[key].shape} instead of {expected[key]}"
        for key in both
        if tensors[key].shape != expected[key] and not (windows and key.endswith(TORCH_BIAS_TABLE))
    ]
    hints = windows + _no_classifier([f"{head}.bias", f"{head}.weight"], differences["missing"], found)
    kinds = {what: keys for what, keys in differences.items() if keys}
    if kinds or windows:
        count = min(3, 5 - len(kinds))  # keeps the message below 1,000 characters
        lists = [
            f"{len(keys)} {what}: {first_few(keys, count, width=100 if 'shape' in what else 50)}"
            for what, keys in kinds.items()
        ]
        advice = _other_places(found) or ["name the model that it was saved from"] * (not hints)
        raise UserError(f"the state dict is not one of {name}: {'; '.join(hints + lists + advice)}")
    if infinite := [key for key in both if not np.isfinite(tensors[key]).all()]:
        raise UserError(
            f"the state dict has values that are NaN or infinite in {first_few(infinite)}; "
            "take weights from before the training diverged"
        )


def _other_window(expected, tensors):
    """Hint to set the window, if all bias tables are for windows of one other size."""
    tables = [key for key in expected if key.endswith(TORCH_BIAS_TABLE) and key in tensors]
    shapes = {(tensors[key].shape[:1], tensors[key].shape[1:] == expected[key][1:]) for key in tables}
    if len(shapes) != 1 or not all(*shapes):  # tables of other heads are those of another network
        return []
    rows = len(tensors[tables[0]])
    theirs, asked = table_window(rows), table_window(expected[tables[0]][0])
    if theirs == asked or (2 * theirs - 1) ** 2 != rows:
        return []
    return [window_hint(theirs, asked, "--window_size")]


def _no_classifier(classifier, missing, found):
    """Hint to add the classifier, if nothing else is missing."""
    names = first_few(found.prefix + name for name in classifier)
    return [f"it has no classifier: add {names} (zeros, to train a new one)"] * (missing == classifier)


def notes(found: Found) -> list[str]:
    """Sentences on what was there and not taken."""
    left_over = f"{len(found.beside)} left over beside the weights of the model: {first_few(found.beside)}"
    return _other_places(found) + [left_over] * bool(found.beside)


def _other_places(found: Found) -> list[str]:
    if not found.others:
        return []
    first = found.others[0]
    return [
        f"the weights were taken from {found.place or 'the top'}, there are others in {first_few(found.others, 2)}: "
        f"set key={first} (--key={first} in the command) to take them"
    ]
