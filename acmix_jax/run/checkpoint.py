"""Checkpoints of a run, through Orbax: saved in the background, verified when a run resumes.

A checkpoint holds the train state and a checksum of it; which images come next follows from its step
(data/pipeline.py), for any number of processes and workers. The newest checkpoints and the best one are kept. A
checkpoint becomes visible only when it is complete, so a run killed during a save resumes from the one before. If the
newest checkpoint is corrupt (truncated, flipped bits), it is moved aside with a warning and the one before is used.
"""

import operator
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from acmix_jax.devices import processes
from acmix_jax.errors import UserError, first_few


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """uint32 that depends on every bit of every leaf, and not on how the leaves are sharded."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        values = jax.lax.bitcast_convert_type(leaf, unsigned).ravel().astype(jnp.uint32)
        odd = 2 * jnp.arange(values.size, dtype=jnp.uint32) + 1  # an odd factor loses no bit modulo 2^32
        total = total * jnp.uint32(1000003) + (values * odd).sum(dtype=jnp.uint32)
    return total


class Checkpoints:
    """The checkpoints in `directory`.

    Args:
      directory: created when first saved to.
      best: name of the evaluation metric whose highest value marks the best checkpoint; None for no best one.
      keep: number of newest checkpoints to keep beside the best one.
      read_only: changes no file; safe for a run that is in progress.
    """

    def __init__(self, directory: Path, best: str | None = None, keep: int = 2, read_only: bool = False):
        self._directory = directory = directory.absolute()  # required by Orbax
        self._best = best
        metric = operator.itemgetter(best) if best else None
        policies = [checkpoint_managers.LatestN(keep)]
        if best:
            policies.append(
                checkpoint_managers.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            best_fn=metric,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background.

        Args:
          metrics: results of an evaluation at this step, if there was one.

        Raises:
          UserError: this or the previous save could not be written, for example because the disk is full.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            check=ocp.args.JsonSave({"checksum": int(checksum(state))}),
        )
        try:
            self._manager.save(step, args=items, metrics=metrics)
        except (OSError, ValueError) as error:  # from the file system, from TensorStore
            raise self._cannot_write(error) from error

    def save_variables(self, step: int, variables: dict[str, Any]) -> None:
        """Writes variables alone, for `read_variables`; a run cannot resume from them.

        Raises:
          UserError: they could not be written.
        """
        params, model_state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        state = ocp.args.PyTreeSave({"params": params, "model_state": model_state})
        try:
            self._manager.save(step, args=ocp.args.Composite(state=state))
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def restore(self, state: Any) -> Any | None:
        """The newest intact checkpoint in the form of `state`; None if there is no checkpoint.

        Newer, corrupt checkpoints are moved aside, with a warning.

        Args:
          state: shapes, with the shardings of the result.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        corrupt = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = self._read(step, state)
            if processes.any_of(restored is None):
                corrupt[step] = reason or "another process cannot read it"
                continue
            if int(checksum(restored.state)) != restored.check["checksum"]:
                corrupt[step] = "its values are not those that were saved"
                continue
            for newer, reason in corrupt.items():
                processes.first_does(partial(self._move_aside, newer, f"{reason}; resuming from checkpoint {step}"))
            self._manager.reload()
            return restored.state
        if corrupt:
            reasons = first_few((f"{step}: {reason}" for step, reason in corrupt.items()), count=2, width=120)
            raise UserError(f"no checkpoint in {self._directory} can be read ({reasons}); choose another --workdir")
        return None

    def read_variables(self, which: str) -> tuple[int, dict[str, Any]]:
        """Step and variables {"params", "batch_stats", ...} of a checkpoint as NumPy arrays, without the optimizer.

        "params" are the averaged parameters, if the run keeps an average.

        Args:
          which: "latest", "best" or a step number.

        Raises:
          UserError: no such checkpoint, or it cannot be read.
        """
        steps = self._manager.all_steps()
        best = self._manager.best_step() if self._best else None
        step = {"latest": max(steps, default=None), "best": best}.get(which, which)
        if str(step) not in map(str, steps):
            existing = f"set --checkpoint to one of its steps: {first_few(map(str, sorted(steps)), count=6)}"
            raise UserError(f"no checkpoint {which!r} in {self._directory}; {existing if steps else 'train first'}")
        folder = self._directory / str(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as reader:
                saved = reader.metadata(folder).item_metadata.tree
                params = "average" if saved.get("average") else "params"
                wanted = {name: saved.get(name, {}) for name in (params, "model_state")}
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
                restored = reader.restore(folder, ocp.args.PyTreeRestore(wanted, as_numpy, partial_restore=True))
        except Exception as error:  # Orbax raises many types for files that it cannot read
            raise UserError(f"cannot read {folder} ({_reason(error)}); choose another checkpoint") from error
        return int(step), {"params": restored[params], **restored["model_state"]}

    def __enter__(self) -> "Checkpoints":
        # When one array fails, Orbax closes its event loop while TensorStore still works on the others; each of these
        # then raises this error from C++, and Python would print a traceback for each (Orbax 0.12).
        self._hook = sys.unraisablehook
        sys.unraisablehook = lambda late: str(late.exc_value) == "Event loop is closed" or self._hook(late)
        return self

    def __exit__(self, *_) -> None:
        """Waits until everything is written."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error
        finally:
            self._manager.close()
            sys.unraisablehook = self._hook

    def _read(self, step, state):
        """The items of a checkpoint and None, or None and the reason why it cannot be read."""
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(state, ocp.checkpoint_utils.construct_restore_args(state)),
            check=ocp.args.JsonRestore(),
        )
        try:
            return self._manager.restore(step, args=items), None
        except Exception as error:  # Orbax raises many types for files that it cannot read
            return None, _reason(error)

    def _cannot_write(self, error):
        return UserError(
            f"cannot write a checkpoint in {self._directory} ({_reason(error)}); earlier ones are intact: "
            "free some space there and start again"
        )

    def _move_aside(self, step, reason):
        folder = self._directory.parent / f"corrupt_checkpoint_{step}_{time.time_ns()}"
        print(f"warning: checkpoint {step} is corrupt: {reason}; moved to {folder}", file=sys.stderr)
        (self._directory / str(step)).rename(folder)


def _reason(error: Exception) -> str:
    """The first line of a message, without the settings that TensorStore appends."""
    line = str(error).strip().partition("\n")[0].partition(" [tensorstore_spec")[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"
