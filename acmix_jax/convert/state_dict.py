"""State dicts in the layouts of the released code, to variables and back, tensor by tensor and strictly by name."""

import contextlib
import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.backbones.swin import VARIANTS
from acmix_jax.convert.check import TORCH_BIAS_TABLE, check, is_float, notes
from acmix_jax.convert.find import find
from acmix_jax.convert.layouts import HEAD_MARKS, LAYOUTS, OTHER_LAYOUTS, Layout, segmenter_layout
from acmix_jax.errors import UserError
from acmix_jax.models import create_model, create_segmenter, parse_name
from acmix_jax.ops.window import relative_position_index, shift_mask, table_window
from acmix_jax.weights.names import head_of

Variables = dict[str, Any]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_BUFFERS = r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask)"


class Converted(NamedTuple):
    """Contents of a state dict.

    Attributes:
      variables: NumPy arrays for `create_model(name, num_classes)` or `create_segmenter(name, head, num_classes)`.
      batches_tracked: training steps counted by PyTorch's BatchNorm layers, 0 without any; see `to_torch`.
      image_size: of the images that the masks of a Swin transformer are for, None without any.
      notes: sentences on what was not taken.
    """

    variables: Variables
    batches_tracked: int
    image_size: int | None
    notes: list[str]


def from_torch(
    name: str, state_dict: Mapping[str, Any], key: str | None = None, head: str | None = None, **acmix: Any
) -> Variables:
    """Variables for `create_model(name, num_classes, **acmix)`, as NumPy arrays, from a PyTorch state dict.

    With a `head`, they are for `create_segmenter(name, head, num_classes, **acmix)`.

    The state dict may lie in other mappings, and its names may have a common prefix; see convert/find.py. What else was
    there and not taken is said on stderr. Buffers that hold no weights are left out; weights become float32.

    Args:
      name: a model's name; the state dict has a layout of convert/layouts.py.
      state_dict: tensors (or arrays) by name.
      key: where the weights are, such as "model_ema"; None for the first that are no average of others.
      head: of a segmenter, such as "upernet"; None for a classifier.
      **acmix: fields of the ACmix layers, as `create_model` takes them.

    Raises:
      UserError: a tensor is missing, left over, of another shape or type, or not finite, lists the first ones of each
        kind; or there are no tensors.
    """
    converted = convert(name, state_dict, key, head, **acmix)
    for note in converted.notes:
        print(f"warning: {note}", file=sys.stderr)
    return converted.variables


def convert(
    name: str, state_dict: Mapping[str, Any], key: str | None = None, head: str | None = None, **acmix: Any
) -> Converted:
    """As `from_torch`, with all that a state dict tells."""
    family = parse_name(name).family
    shapes = variable_shapes(name, num_classes=1000, head=head, **acmix)
    layouts = {"": _layout(family, head), **(OTHER_LAYOUTS.get(family, {}) if head is None else {})}
    blank = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)  # of no size in memory
    wanted = [{key: x.shape for key, (_, x) in _weights(layout, blank).items()} for layout in layouts.values()]
    found = find(state_dict, [names.keys() for names in wanted], key)
    title, layout = list(layouts.items())[found.layout]
    tensors = {key: _as_array(value) for key, value in found.tensors.items() if not re.fullmatch(_BUFFERS, key)}

    theirs = {title for title, mark in HEAD_MARKS.items() for key in (*tensors, *found.beside) if mark in key} - {head}
    if theirs:
        raise UserError(
            f"the state dict is one of a segmenter with {min(theirs)}: set head={min(theirs)} "
            f"(--head={min(theirs)} in the command)"
        )
    expected = _resize(wanted[found.layout], layout, tensors)
    asked = f"{name} with {head}" if head else name
    check(f"{asked} in the layout of {title}" if title else asked, expected, tensors, found, layout.heads[0])
    variables = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items():
        parts = [_from_torch_axes(tensors[part.key], leaf.ndim, part.kind) for part in _parts(layout, path)]
        variables[path] = np.concatenate(parts, axis=-1) if len(parts) > 1 else np.array(parts[0], order="C")
    return Converted(
        variables=flax.traverse_util.unflatten_dict(variables, sep="/"),
        batches_tracked=_batches_tracked(found.tensors),
        image_size=_image_size(name, found.tensors),
        notes=notes(found),
    )


def to_torch(
    name: str, variables: Variables, num_batches_tracked: int = 0, image_size: int = 224
) -> dict[str, np.ndarray]:
    """The state dict of the released code, with its buffers, from variables of a classifier or a segmenter.

    Args:
      num_batches_tracked: the training steps so far, which PyTorch's BatchNorm counts and Flax's does not.
      image_size: for the masks that Swin's state dict holds as buffers, if it is a classifier's.
    """
    tensors, head = {}, head_of(variables["params"])
    for key, (path, weight) in _weights(_layout(parse_name(name).family, head), variables).items():
        tensors[key] = np.ascontiguousarray(weight)
        if key.endswith("running_mean"):
            counter = key.replace("running_mean", "num_batches_tracked")
            tensors[counter] = np.array(num_batches_tracked, np.int64)
        if key.endswith(TORCH_BIAS_TABLE):
            size = image_size // VARIANTS[parse_name(name).plain].patch_size if head is None else None
            tensors |= _window_buffers(key, path, len(weight), size)
    return tensors


def variable_shapes(
    name: str, num_classes: int, channels: int = 3, head: str | None = None, **options: Any
) -> Variables:
    """Shapes and types of the variables of a classifier or, with a `head`, of a segmenter; nothing is computed."""
    if head is None:
        model, method = create_model(name, num_classes, **options), "__call__"
    else:
        model, method = create_segmenter(name, head, num_classes, **options), "with_auxiliary"
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)  # large enough for each model
    return jax.eval_shape(partial(model.init, method=method), jax.random.key(0), images)


def _layout(family, head):
    return LAYOUTS[family] if head is None else segmenter_layout(LAYOUTS[family], head)


def _weights(layout: Layout, variables: Variables) -> dict[str, tuple[str, np.ndarray]]:
    """By PyTorch's name: the path of our variable, and a view of it, or of its share, with PyTorch's axes."""
    weights = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items():
        leaf, parts = np.asarray(leaf), _parts(layout, path)
        shares = np.cumsum([part.share for part in parts])
        pieces = [leaf] if len(parts) == 1 else np.split(leaf, shares[:-1] * (leaf.shape[-1] // shares[-1]), axis=-1)
        for part, piece in zip(parts, pieces, strict=True):
            weights[part.key] = path, _to_torch_axes(piece, part.kind)
    return weights


class _Part(NamedTuple):
    """A PyTorch tensor that is one of our leaves, or a share of its last axis."""

    key: str
    share: int
    kind: str  # "conv1x1" (its kernel), "kernel" (any other one) or "as it is"


def _parts(layout: Layout, path: str) -> list[_Part]:
    module, _, leaf = path.partition("/")[2].rpartition("/")
    if leaf not in _LEAVES:  # a parameter that stands alone
        return [_Part(key, share, "as it is") for key, share in layout.name(f"{module}/{leaf}")]
    kinds = {True: "conv1x1", False: "kernel"}
    return [
        _Part(
            f"{key}.{_LEAVES[leaf]}", share,
            kinds[bool(re.fullmatch(layout.conv1x1, key))] if leaf == "kernel" else "as it is",
        )
        for key, share in layout.name(module)
    ]  # fmt: skip


def _to_torch_axes(leaf, kind):
    if kind != "as it is":
        leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T  # HWIO to OIHW
        return leaf[:, :, None, None] if kind == "conv1x1" and leaf.ndim == 2 else leaf
    return leaf.reshape(1) if leaf.ndim == 0 else leaf


def _from_torch_axes(tensor, rank, kind):
    if kind != "as it is":
        tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        return tensor.reshape(tensor.shape[-2:]) if rank == 2 else tensor
    return tensor.reshape(()) if rank == 0 else tensor


def _window_buffers(key, path, table_length, first_size):
    """The index of the bias table and, in shifted blocks, the mask for maps of `first_size` in the first stage.

    Without a size, the index is that of whole windows, and there is no mask, as in the released dense backbones.
    """
    stage, block = (int(number) for number in re.search(r"stage(\d+)_block(\d+)", path).groups())
    window_size = table_window(table_length)
    size = first_size and first_size // 2 ** (stage - 1)
    window, shift = (min(window_size, size or window_size),) * 2, (window_size // 2,) * 2
    prefix = key.removesuffix(f"attn.{TORCH_BIAS_TABLE}")
    buffers = {f"{prefix}attn.relative_position_index": relative_position_index(window, window_size)}
    if size and block % 2 == 0 and size > window_size:
        padded = -(-size // window_size) * window_size
        buffers[f"{prefix}attn_mask"] = shift_mask(padded, padded, window, shift)
    return buffers


def _batches_tracked(tensors):
    counters = [_as_array(value) for key, value in tensors.items() if key.endswith("num_batches_tracked")]
    counts = (x.item() for x in counters if x.size == 1 and np.issubdtype(x.dtype, np.integer))
    return max((0, *counts))


def _image_size(name, tensors):
    """Side of the images that the mask of the first stage is for."""
    masks = [np.shape(tensor) for key, tensor in tensors.items() if key.endswith("layers.0.blocks.1.attn_mask")]
    if len(masks) != 1 or len(masks[0]) != 3:
        return None
    windows, pixels, _ = masks[0]
    return round((windows * pixels) ** 0.5) * VARIANTS[parse_name(name).plain].patch_size


def _as_array(value):
    if hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16
        with contextlib.suppress(TypeError, RuntimeError):  # sparse, quantised and the like stay what they are
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    if not isinstance(value, np.ndarray | np.number | jax.Array):
        return np.empty((0,))  # of no parameter's shape
    value = np.asarray(value)
    with np.errstate(over="ignore"):  # becomes infinite, which check refuses
        return value.astype(np.float32, copy=False) if is_float(value) else value


def _resize(expected, layout, tensors):
    """The shapes with the classes and image channels of these tensors, which are free."""
    stem, logits = f"{layout.stem}.weight", [f"{head}.{leaf}" for head in layout.heads for leaf in ("weight", "bias")]
    channels = (*tensors.get(stem, np.empty(0)).shape, 3, 3)[1] or 3
    num_classes = tensors.get(f"{layout.heads[0]}.bias", np.empty(0)).size or 1000
    rows, _, *rest = expected[stem]
    heads = {key: (num_classes, *expected[key][1:]) for key in logits}
    return expected | {stem: (rows, channels, *rest)} | heads
