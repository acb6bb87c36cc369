"""Training in several processes, one per host of a pod or machine of a cluster."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from acmix_jax.errors import UserError

HEARTBEAT_SECONDS = 60  # a process silent for this long ends the others with an error
SHUTDOWN_SECONDS = 20  # a process that ends with an error waits this long for the others


def connect(config: Any | None) -> None:
    """Joins the other processes; call it before JAX is used. Does nothing without a config or a coordinator.

    Args:
      config: with fields coordinator ("auto" where JAX detects the cluster, as on TPU pods and under SLURM, else
        HOST:PORT), num_processes and process_id.

    Raises:
      UserError: the coordinator cannot be reached, or JAX does not detect the cluster.
    """
    if not (config and config.coordinator):
        return
    arguments = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if config.coordinator != "auto":
        arguments |= {
            "coordinator_address": config.coordinator, "num_processes": config.num_processes,
            "process_id": config.process_id,
        }  # fmt: skip
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot join the other processes through {config.coordinator} ({reason}); set --config.distributed."
            "coordinator=HOST:PORT of the first one, --config.distributed.num_processes and .process_id"
        ) from error


def is_first() -> bool:
    """True in the process that writes files and reports."""
    return jax.process_index() == 0


def any_of(condition: bool) -> bool:
    """True if `condition` is true in any process; all processes must call it."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.int32(condition))))


def first_does(action: Callable[[], Any]) -> None:
    """Runs `action` in the first process; the others wait until it is done.

    Raises:
      UserError: in all processes, if `action` raised one in the first.
    """
    error = None
    if is_first():
        try:
            action()
        except UserError as raised:
            error = raised
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
        if failed and error is None:
            raise UserError("the first process ended with an error, see its output")
    if error is not None:
        raise error
