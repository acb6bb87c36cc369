"""Sharding of arrays over devices: one mesh with the axes ("data", "fsdp"), the only one in this package.

The batch is split over all devices. Along "fsdp", large parameters and optimizer states are split, too: each device
holds a part of every large array (Zhao et al., "PyTorch FSDP", 2023; ZeRO stage 3).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acmix_jax.errors import UserError

_SMALLEST_SPLIT = 1024  # elements; splitting smaller arrays costs more than it saves


def make_mesh(batch_size: int, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh of all devices (or of `devices`): `fsdp` along "fsdp", the rest along "data".

    Raises:
      UserError: the global batch does not divide over the devices, or `fsdp` does not divide their number.
    """
    count = len(devices or jax.devices())
    if count % fsdp:
        raise UserError(f"--config.fsdp={fsdp} does not divide the {count} devices; use 1 or a divisor of {count}")
    if batch_size % count:
        down, up = batch_size // count * count, -(-batch_size // count) * count
        raise UserError(
            f"batch_size={batch_size} is not divisible by the {count} devices; "
            f"set --config.batch_size={down or up}" + (f" or {up}" if down else "")
        )
    shape, types = (count // fsdp, fsdp), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_large(shapes: Any, mesh: Mesh) -> Any:
    """Sharding of each array: large ones are split over "fsdp" along the longest axis that `fsdp` divides."""
    parts = mesh.shape["fsdp"]

    def sharding_of(leaf):
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or np.prod(leaf.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding_of, shapes)


def with_sharding(shapes: Any, sharding: Any) -> Any:
    """The same shapes with a sharding: one for all leaves, or one for each."""
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays, split over all devices, from this process's rows of a batch (NumPy, batch axis first)."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(_over_devices(mesh), x), batch)


def batch_shapes(example: Any, batch_size: int, mesh: Mesh) -> Any:
    """Shapes and shardings of the result of `put_batch`, for `batch_size` rows like those of `example`."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), example)
    return with_sharding(shapes, _over_devices(mesh))


def _over_devices(mesh):
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
