"""Checkpoints of a run, through Orbax: saved in the background, verified when a run continues.

A checkpoint holds the train state and a checksum of it; which images come next follows from its step
(data/pipeline.py), however many processes and workers there are. The newest ones and the best one are kept. A
checkpoint becomes visible only when it is complete, so a run killed during a save continues from the one before; a run
that finds its newest one damaged (truncated, flipped bits) sets it aside with a warning.
"""

import contextlib
import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from acmix_jax.devices import processes
from acmix_jax.errors import UserError


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
        self._directory = directory = directory.absolute()  # Orbax takes no other
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[best],
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background; `metrics` are those of an evaluation at this step.

        Raises:
          UserError: this or the previous save could not be written, for example because the disk is full.
        """
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            check=ocp.args.JsonSave({"checksum": int(checksum(state))}),
        )
        try:
            with _abandoned_work_unheard():
                self._manager.save(step, args=arguments, metrics=metrics)
        except (OSError, ValueError) as error:  # of the file system, of TensorStore
            raise self._cannot_write(error) from error

    def save_variables(self, step: int, variables: dict[str, Any]) -> None:
        """Writes variables alone, for `read_variables`; a run cannot continue from them.

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
        """The newest intact checkpoint in the form of `state`; None if there is none.

        Damaged checkpoints that are newer than it are moved out of the way, with a warning.

        Args:
          state: shapes with the shardings that the result shall have.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        damaged = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = self._read(step, state)
            if processes.any_of(restored is None):
                damaged[step] = reason or "another process cannot read it"
                continue
            if int(checksum(restored.state)) != restored.check["checksum"]:
                damaged[step] = "its values are not those that were saved"
                continue
            for newer, reason in damaged.items():
                processes.first_does(partial(self._set_aside, newer, f"{reason}; continuing from checkpoint {step}"))
            self._manager.reload()
            return restored.state
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise UserError(f"no checkpoint in {self._directory} can be read ({reasons}); choose another --workdir")
        return None

    def read_variables(self, which: str, folded: bool = False) -> tuple[int, dict[str, Any]]:
        """Step and variables {"params", "batch_stats", ...} of a checkpoint as NumPy arrays, without the optimizer.

        The parameters are the averaged ones, if the run keeps those.

        Args:
          which: "latest", "best" or a step number.
          folded: the caller can use what `acmix_jax.fold` wrote.

        Raises:
          UserError: no such checkpoint, it cannot be read, or it is folded and `folded` is not set.
        """
        steps = [str(step) for step in sorted(self._manager.all_steps())]
        named = {"latest": self._manager.latest_step, "best": self._manager.best_step}
        step = named[which]() if which in named else which
        if str(step) not in steps:
            there = f"it has {', '.join(steps)}" if steps else "it has none; train first"
            raise UserError(f"no checkpoint {which!r} in {self._directory}; {there}")
        folder = self._directory / str(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as reader:
                saved = reader.metadata(folder).item_metadata.tree
                params = "average" if saved.get("average") else "params"
                wanted = {name: saved.get(name, {}) for name in (params, "model_state")}
                arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
                restored = reader.restore(folder, ocp.args.PyTreeRestore(wanted, arguments, partial_restore=True))
        except Exception as error:
            raise UserError(f"cannot read {folder} ({_reason(error)})") from error
        if "folded" in restored["model_state"] and not folded:
            raise UserError(f"{self._directory.parent} holds folded weights, of use for --mode=eval alone; "
                            "use the folder that they were made from")  # fmt: skip
        return int(step), {"params": restored[params], **restored["model_state"]}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Waits until everything is written."""
        try:
            with _abandoned_work_unheard():
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error
        finally:
            self._manager.close()

    def _read(self, step, state):
        """What a checkpoint holds and None, or None and why it cannot be read."""
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(state, ocp.checkpoint_utils.construct_restore_args(state)),
            check=ocp.args.JsonRestore(),
        )
        try:
            with _abandoned_work_unheard():
                return self._manager.restore(step, args=arguments), None
        except Exception as error:  # Orbax raises many types for files that it cannot read
            return None, _reason(error)

    def _cannot_write(self, error):
        return UserError(
            f"cannot write a checkpoint in {self._directory} ({_reason(error)}); earlier ones are intact: "
            "free some space there and start again"
        )

    def _set_aside(self, step, reason):
        folder = self._directory.parent / f"damaged_checkpoint_{step}_{time.time_ns()}"
        print(f"warning: checkpoint {step} is damaged: {reason}; it is now {folder}", file=sys.stderr)
        (self._directory / str(step)).rename(folder)


def _reason(error: Exception) -> str:
    """The first line of a message, without the pages of settings that TensorStore adds to it."""
    line = str(error).strip().partition("\n")[0].partition(" [tensorstore_spec")[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"


@contextlib.contextmanager
def _abandoned_work_unheard() -> Iterator[None]:
    """When a read or write fails, Orbax abandons the others, and Python would print a traceback for each of them."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.disabled = True
    try:
        yield
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the abandoned work
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        asyncio_log.disabled = False
