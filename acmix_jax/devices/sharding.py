"""Where arrays live: one mesh with the axes ("data", "fsdp"); nobody else builds a mesh or a sharding.

The batch is split over all devices. Along "fsdp", parameters and what the optimizer keeps of them are split too, each
device holding a part of every large array (Zhao et al., "PyTorch FSDP", 2023; ZeRO stage 3).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acmix_jax.errors import UserError

_SMALLEST_SPLIT = 1024  # numbers in an array; splitting smaller ones costs more than it saves


def make_mesh(batch_size: int, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given), `fsdp` of them along "fsdp", the others along "data".

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
    axes = {"axis_types": (AxisType.Auto,) * 2, "devices": devices}
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), **axes)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_large(shapes: Any, mesh: Mesh) -> Any:
    """The sharding of each array of a state: large ones split over "fsdp", along the longest axis that divides."""
    parts = mesh.shape["fsdp"]

    def sharding_of(leaf):
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or np.prod(leaf.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding_of, shapes)


def with_sharding(shapes: Any, sharding: Any) -> Any:
    """The same shapes, with the sharding (one, or one for each leaf) that arrays of them shall have."""
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch (NumPy, batch axis first) to global arrays, split over all devices."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(_over_devices(mesh), x), batch)


def batch_shapes(example: Any, batch_size: int, mesh: Mesh) -> Any:
    """The shapes that `put_batch` gives for a global batch of rows like those of `example`."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), example)
    return with_sharding(shapes, _over_devices(mesh))


def _over_devices(mesh):
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
