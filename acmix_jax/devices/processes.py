"""Several processes that train together, one for each host of a pod or each machine of a cluster."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from acmix_jax.errors import UserError

HEARTBEAT_SECONDS = 60  # after this long without a sign of life from one process, the others end with a message
SHUTDOWN_SECONDS = 20  # that a process which ends with an error waits for the others, before it ends alone


def connect(config: Any | None) -> None:
    """Joins the other processes, before anything else uses JAX; alone without a config or with an empty coordinator.

    Args:
      config: coordinator ("auto" where JAX finds out by itself, as on TPU pods and under SLURM, else HOST:PORT),
        num_processes and process_id.

    Raises:
      UserError: the coordinator cannot be reached, or JAX does not find out.
    """
    if not (config and config.coordinator):
        return
    place = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if config.coordinator != "auto":
        place |= {
            "coordinator_address": config.coordinator, "num_processes": config.num_processes,
            "process_id": config.process_id,
        }  # fmt: skip
    try:
        jax.distributed.initialize(**place)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot join the other processes through {config.coordinator} ({reason}); set --config.distributed."
            "coordinator=HOST:PORT of the first one, --config.distributed.num_processes and .process_id"
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes and reports."""
    return jax.process_index() == 0


def any_of(is_so: bool) -> bool:
    """Whether it is so in any process; all of them must ask."""
    return bool(np.any(multihost_utils.process_allgather(np.int32(is_so)))) if jax.process_count() > 1 else is_so


def first_does(action: Callable[[], Any]) -> None:
    """Runs `action` in the first process while the others wait for it.

    Raises:
      UserError: in all processes, if it raised one in the first.
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
            raise UserError("the first process ended with an error, which it prints")
    if error is not None:
        raise error
