"""Runs that repeat each other with other seeds."""

from typing import Any

from acmix_jax.config import flatten, may_change, restore_config


def apart_from_seed(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run's config, by dotted name, that are equal in all repetitions of a run."""
    fields = flatten(restore_config(config).to_dict())
    return {name: value for name, value in fields.items() if name != "seed" and not may_change(name)}
