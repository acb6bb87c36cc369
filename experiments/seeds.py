"""Runs that repeat each other with other seeds."""

from typing import Any

import flax

from acmix_jax.run.workdir import FREE


def apart_from_seed(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run's config, by dotted name, that are equal in all repetitions of a run."""
    fields = flax.traverse_util.flatten_dict(config, sep=".")
    return {name: value for name, value in fields.items() if name not in (*FREE, "seed")}
