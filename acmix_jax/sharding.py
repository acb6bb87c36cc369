"""Where arrays live: one mesh with the axes ("data", "fsdp"); nobody else builds a mesh or a sharding."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acmix_jax.errors import UserError


def make_mesh(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) along "data".

    Raises:
      UserError: the global batch does not divide over the devices.
    """
    count = len(devices or jax.devices())
    if batch_size % count:
        down, up = batch_size // count * count, -(-batch_size // count) * count
        raise UserError(
            f"batch_size={batch_size} is not divisible by the {count} devices; "
            f"set --config.batch_size={down or up}" + (f" or {up}" if down else "")
        )
    return jax.make_mesh((count, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_sharding(shapes: Any, sharding: NamedSharding) -> Any:
    """The same shapes, with the sharding that arrays of them shall have."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch (NumPy, batch axis first) to global arrays, split over all devices."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(_over_devices(mesh), x), batch)


def batch_shapes(example: Any, batch_size: int, mesh: Mesh) -> Any:
    """The shapes that `put_batch` gives for a global batch of rows like those of `example`."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), example)
    return with_sharding(shapes, _over_devices(mesh))


def _over_devices(mesh):
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
