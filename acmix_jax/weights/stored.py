"""Trained weights in folders: of a run, or written by acmix_jax.convert or --mode=fold."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from acmix_jax.config import restore_config
from acmix_jax.errors import UserError
from acmix_jax.evaluators import best_metric
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.weights.fold import fold
from acmix_jax.weights.names import classifier_of
from acmix_jax.weights.warm_start import merge


def read_trainable(folder: Path, which: str = "latest", best: str | None = None) -> tuple[int, dict[str, Any]]:
    """Step and variables of a checkpoint in `folder`, which are not folded; see `Checkpoints.read_variables`.

    Args:
      which: "latest", "best" or a step.
      best: metric that marks the best checkpoint.

    Raises:
      UserError: no such checkpoint, it cannot be read, or it is folded.
    """
    with Checkpoints(folder / "checkpoints", best, read_only=True) as checkpoints:
        step, variables = checkpoints.read_variables(which)
    if "folded" in variables:
        raise UserError(f"{folder} holds folded weights, which only --mode=eval and predict can use; "
                        "use the folder that they were folded from")  # fmt: skip
    return step, variables


def read_into(fresh: dict[str, Any], folder: Path, classes: Sequence[str] | None = None) -> tuple[dict[str, Any], str]:
    """Merges the newest checkpoint of a workdir, or weights that acmix_jax.convert wrote, into fresh variables.

    Args:
      classes: names of the classes to train on. They may differ from those of the weights, as training goes on; but a
        classifier's head for as many classes is taken over as well, and if its outputs stood for other names, or for
        the same ones in another order, a warning tells the first difference.

    Returns:
      As `merge`, where the summary also names the weights.

    Raises:
      UserError: there is no checkpoint, it cannot be read, or it does not fit.
    """
    facts = workdir.read_facts(folder)
    model = facts["model"]
    step, variables = read_trainable(folder)
    try:
        merged, summary = merge(fresh, variables)
    except UserError as error:
        hint = "; only SAN, PVT and Swin can be upgraded from plain to ACmix" if model.startswith("resnet") else ""
        raise UserError(f"--config.init_from={folder} holds weights of {model}{hint}; {error}") from error
    change = workdir.class_change(facts.get("classes"), classes)
    head = classifier_of(fresh["params"])
    if change and head is not None and head == classifier_of(variables["params"]):
        print(f"warning: the head from {folder} was trained on other classes: {change}", file=sys.stderr)
    return merged, f"{folder} ({model}) at step {step}: {summary}"


def fold_checkpoint(folder: Path, which: str, out: Path) -> str:
    """Folds a checkpoint in `folder` and writes it to `out`, a new folder of weights; returns a summary.

    Args:
      which: "latest", "best" or a step.

    Raises:
      UserError: no such checkpoint, it is folded already, it has nothing to fold, or `out` cannot be written.
    """
    facts = workdir.read_facts(folder)
    best = best_metric(restore_config(facts["config"], folder)) if "config" in facts else None
    step, variables = read_trainable(folder, which, best)
    folded = fold(variables)
    if "folded" not in folded:
        raise UserError(f"there is nothing to fold in {facts['model']}: use the weights in {folder} as they are")
    workdir.check_unused(out)
    with Checkpoints(out / "checkpoints") as checkpoints:
        checkpoints.save_variables(step, folded)
    workdir.write_facts(out, facts | {"folded": True})
    before, after = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (variables, folded))
    return f"{facts['model']} at step {step}: {before:,} numbers, folded to {after:,}, written to {out}"
