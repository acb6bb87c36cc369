"""State dicts in the layouts of the released code, to variables and back, tensor by tensor and strictly by name."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.backbones.swin import VARIANTS
from acmix_jax.convert.layouts import LAYOUTS, Layout
from acmix_jax.errors import UserError
from acmix_jax.models import create_model, parse_name
from acmix_jax.ops.window import relative_position_index, shift_mask

Variables = dict[str, Any]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_WRAPPERS = ("state_dict", "model")
_BUFFERS = r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask)"


def from_torch(name: str, state_dict: Mapping[str, Any], **acmix: Any) -> Variables:
    """Variables for `create_model(name, num_classes, **acmix)`, as NumPy arrays, from a PyTorch state dict.

    Understands the wrappers that training scripts leave ({"model": ...}, {"state_dict": ...}, "module." before every
    name). Buffers that hold no weights are left out; half precision becomes float32.

    Args:
      name: a model's name; the state dict has the layout of its family's released code (convert/layouts.py).
      state_dict: tensors (or arrays) by name.
      **acmix: fields of the ACmix layers, as `create_model` takes them.

    Raises:
      UserError: a tensor is missing, left over or of another shape, lists all of them; or there are no tensors.
    """
    tensors = _tensors(state_dict)
    layout = LAYOUTS[parse_name(name).family]
    channels = (*tensors.get(f"{layout.stem}.weight", np.empty(0)).shape, 3, 3)[1] or 3
    num_classes = tensors.get(f"{layout.head}.bias", np.empty(0)).size or 1000
    shapes = variable_shapes(name, num_classes, channels, **acmix)
    blank = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)  # of no size in memory
    expected = to_torch(name, blank)
    _check(name, expected, tensors)
    converted = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items():
        parts = [_from_torch_axes(tensors[part.key], leaf.ndim, part.kind) for part in _parts(layout, path)]
        converted[path] = np.concatenate(parts, axis=-1) if len(parts) > 1 else np.array(parts[0], order="C")
    return flax.traverse_util.unflatten_dict(converted, sep="/")


def to_torch(
    name: str, variables: Variables, num_batches_tracked: int = 0, image_size: int = 224
) -> dict[str, np.ndarray]:
    """The state dict of the released code, with its buffers, from variables of `create_model(name)`.

    Args:
      num_batches_tracked: the training steps so far, which PyTorch's BatchNorm counts and Flax's does not.
      image_size: for the masks that Swin's state dict holds as buffers.
    """
    layout, tensors = LAYOUTS[parse_name(name).family], {}
    for path, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items():
        leaf, parts = np.asarray(leaf), _parts(layout, path)
        shares = np.cumsum([part.share for part in parts])
        pieces = [leaf] if len(parts) == 1 else np.split(leaf, shares[:-1] * (leaf.shape[-1] // shares[-1]), axis=-1)
        for part, piece in zip(parts, pieces, strict=True):
            tensors[part.key] = np.ascontiguousarray(_to_torch_axes(piece, part.kind))
            if part.key.endswith("running_mean"):
                counter = part.key.replace("running_mean", "num_batches_tracked")
                tensors[counter] = np.array(num_batches_tracked, np.int64)
            if part.key.endswith("relative_position_bias_table"):
                tensors |= _window_buffers(part.key, path, len(leaf), VARIANTS[parse_name(name).plain], image_size)
    return tensors


def batches_tracked(state_dict: Mapping[str, Any]) -> int:
    """Training steps counted by PyTorch's BatchNorm layers, 0 without any; see `to_torch`."""
    tensors = _strip(state_dict)
    return max((int(value) for key, value in tensors.items() if key.endswith("num_batches_tracked")), default=0)


def variable_shapes(name: str, num_classes: int, channels: int = 3, **acmix: Any) -> Variables:
    """Shapes and types of a model's variables; nothing is computed."""
    model = create_model(name, num_classes, **acmix)
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)  # large enough for each model
    return jax.eval_shape(model.init, jax.random.key(0), images)


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


def _window_buffers(key, path, table_length, variant, image_size):
    """The index of the bias table and, in shifted blocks, the mask for the training image size."""
    stage, block = (int(number) for number in re.search(r"stage(\d+)_block(\d+)", path).groups())
    window_size = (round(table_length**0.5) + 1) // 2
    size = image_size // variant.patch_size // 2 ** (stage - 1)
    window, shift = (min(window_size, size),) * 2, (window_size // 2,) * 2
    prefix = key.removesuffix("attn.relative_position_bias_table")
    buffers = {f"{prefix}attn.relative_position_index": relative_position_index(window, window_size)}
    if block % 2 == 0 and size > window_size:
        padded = -(-size // window_size) * window_size
        buffers[f"{prefix}attn_mask"] = shift_mask(padded, padded, window, shift)
    return buffers


def _tensors(state_dict: Any) -> dict[str, np.ndarray]:
    """Weights by name, as float32 or wider arrays."""
    return {key: _as_array(value) for key, value in _strip(state_dict).items() if not re.fullmatch(_BUFFERS, key)}


def _strip(state_dict: Any) -> dict[str, Any]:
    """A state dict without its wrappers."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise UserError("these are no tensors by name; a state dict is wanted, or one under 'model' or 'state_dict'")
    wrapper = next((key for key in _WRAPPERS if isinstance(state_dict.get(key), Mapping)), None)
    if wrapper:
        return _strip(state_dict[wrapper])
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def _as_array(value):
    if hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16
        with contextlib.suppress(TypeError, RuntimeError):  # sparse, quantised and the like stay what they are
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    if not isinstance(value, np.ndarray | np.number):
        return np.empty((0,))  # of no parameter's shape
    return value.astype(np.float32) if value.dtype == np.float16 else np.asarray(value)


def _check(name, expected, tensors):
    """Raises a UserError that lists every difference between the names and shapes of the two."""
    expected = {key: value.shape for key, value in expected.items() if not re.fullmatch(_BUFFERS, key)}
    missing = sorted(expected.keys() - tensors.keys())
    left_over = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{key} {tensors[key].shape} instead of {shape}"
        for key, shape in sorted(expected.items())
        if key in tensors and tensors[key].shape != shape
    ]
    differences = {"missing": missing, "left over": left_over, "of another shape": shapes}
    lines = [f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in differences.items() if keys]
    if lines:
        raise UserError(f"the state dict is not one of {name}: {'; '.join(lines)}")
