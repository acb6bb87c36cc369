"""Checkpoints of a run, through Orbax: saved in the background, verified when read.

A checkpoint holds the train state, the data iterator's place and a checksum of the state. The newest ones and the
best one are kept. A checkpoint becomes visible only when it is complete, so a run killed during a save continues
from the one before; one that is damaged later (truncated, flipped bits) is set aside with a warning.
"""

import logging
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from acmix_jax.errors import UserError

log = logging.getLogger(__name__)


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """uint32 that changes with any bit of any leaf; the same however the leaves are sharded."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).ravel().astype(jnp.uint32)
        odd = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1  # odd factors: no bit of a word can vanish
        total = total * jnp.uint32(1000003) + (words * odd).sum(dtype=jnp.uint32)
    return total


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Args:
      directory: created when first saved to.
      best: name of the evaluation metric whose highest value marks the best checkpoint.
      keep: number of newest checkpoints to keep beside the best one.
      read_only: for looking at a run that may be in progress; leaves every file alone.
    """

    def __init__(self, directory: Path, best: str, keep: int = 2, read_only: bool = False):
        self._directory = directory
        self._read_only = read_only
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[best],
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, state: Any, data: grain.DatasetIterator, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background; `metrics` are those of an evaluation at this step.

        Raises:
          UserError: this or the previous save could not be written, for example because the disk is full.
        """
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    data=grain.checkpoint.CheckpointSave(data),
                    check=ocp.args.JsonSave({"checksum": int(checksum(state))}),
                ),
                metrics=metrics,
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoint {step} in {self._directory} ({error.strerror})") from error

    def restore(self, state: Any, data: grain.DatasetIterator) -> Any | None:
        """The newest intact checkpoint in the form of `state`, with `data` set to its place; None if there is none.

        Args:
          state: shapes with the shardings that the result shall have.
          data: the run's iterator over its training batches.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                arguments = ocp.checkpoint_utils.construct_restore_args(state)
                restored = self._read(step, state, arguments, data=grain.checkpoint.CheckpointRestore(data))
                if int(checksum(restored)) == self._manager.restore(step, args=_CHECK).check["checksum"]:
                    return restored
                reason = "its values differ from those saved"
            except Exception as error:  # Orbax raises many types for files that it cannot read
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._set_aside(step, reason)
        return None

    def read_variables(self, which: str) -> tuple[int, dict[str, Any]]:
        """Step and variables {"params", "batch_stats", ...} of a checkpoint as NumPy arrays, without the optimizer.

        Args:
          which: "latest", "best" or a step number.

        Raises:
          UserError: no such checkpoint.
        """
        steps = [str(step) for step in sorted(self._manager.all_steps())]
        step = {"latest": self._manager.latest_step(), "best": self._manager.best_step()}.get(which, which)
        if str(step) not in steps:
            there = f"it has {', '.join(steps)}" if steps else "it has none; train first"
            raise UserError(f"no checkpoint {which!r} in {self._directory}; {there}")
        saved = self._manager.item_metadata(int(step)).state
        wanted = {name: saved[name] for name in ("params", "model_state")}
        restored = self._read(int(step), wanted, jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), wanted))
        return int(step), {"params": restored["params"], **restored["model_state"]}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Waits until everything is written."""
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise UserError(f"cannot write a checkpoint in {self._directory} ({error.strerror})") from error
        finally:
            self._manager.close()

    def _read(self, step, target, arguments, **more):
        state = ocp.args.PyTreeRestore(target, arguments, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=state, **more)).state

    def _set_aside(self, step, reason):
        damaged = self._directory.parent / f"damaged_checkpoint_{step}"
        log.warning("checkpoint %d is damaged (%s); moved to %s, trying the one before", step, reason, damaged)
        (self._directory / str(step)).rename(damaged)
        self._manager.reload()


_CHECK = ocp.args.Composite(check=ocp.args.JsonRestore())
