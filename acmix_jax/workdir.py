"""The folder of one run: created, checked to be writable, and tied to one config."""

import json
from pathlib import Path
from typing import Any

import ml_collections

from acmix_jax.errors import UserError

FREE = (
    "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "best_metric", "data.dir", "data.threads",
)  # fmt: skip
"""Fields that do not change what a run computes, so a resumed run may set them anew."""

WEIGHTS = "weights.json"
"""Says what a folder of converted weights holds; such a folder has no config.json."""


def prepare(workdir: Path, config: Any) -> None:
    """Creates the folder and writes config.json, or checks that the run in it has the same config.

    Raises:
      UserError: the folder cannot be written, or holds a run of another config.
    """
    path = workdir / "config.json"
    if (workdir / WEIGHTS).exists():
        raise UserError(
            f"{str(workdir)!r} holds converted weights; set --config.init_from={workdir} and another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same(workdir, json.loads(path.read_text()), config.to_dict(), FREE)
        written = path.with_suffix(".tmp")
        written.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
        written.replace(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); choose another --workdir") from error
    except OSError as error:
        raise UserError(f"cannot write to workdir {str(workdir)!r} ({error.strerror}); choose another") from error


def config_to_look_with(workdir: Path, given: Any | None) -> Any:
    """The config for evaluating or inspecting the run in this folder: its own one, or `given` if that fits it.

    Raises:
      UserError: the folder holds no run, or `given` differs in more than the batch size and the fields in FREE; or it
        holds converted weights, and `given` is missing or of another model.
    """
    path = workdir / "config.json"
    if (workdir / WEIGHTS).exists():
        return _config_for_weights(workdir, given)
    try:
        own = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); is {str(workdir)!r} the --workdir of a run?") from error
    if given is None:
        return ml_collections.ConfigDict(own)
    _check_same(workdir, own, given.to_dict(), (*FREE, "batch_size"))
    return given


def model_of(folder: Path) -> str:
    """The name of the model whose weights are in a workdir, or in a folder of converted weights.

    Raises:
      UserError: it is neither.
    """
    for name in (WEIGHTS, "config.json"):
        try:
            return json.loads((folder / name).read_text())["model"]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise UserError(f"cannot read {folder / name} ({error})") from error
    raise UserError(f"{str(folder)!r} holds neither a run nor converted weights (python -m acmix_jax.convert)")


def check_unused(folder: Path) -> None:
    """Raises a UserError if the folder cannot be written, or holds a run or weights."""
    if any((folder / name).exists() for name in (WEIGHTS, "config.json")):
        raise UserError(f"{str(folder)!r} holds a run or weights already; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}); choose another --out") from error


def describe_weights(folder: Path, facts: dict[str, Any]) -> None:
    """Marks a folder as one of converted weights; `facts` has "model" and "num_classes" among others.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        (folder / WEIGHTS).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}); choose another --out") from error


def _config_for_weights(folder, given):
    try:
        facts = json.loads((folder / WEIGHTS).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {folder / WEIGHTS} ({error}); convert the weights again") from error
    hint = f"{str(folder)!r} holds weights of {facts['model']} with {facts['num_classes']} classes"
    if given is None:
        raise UserError(f"{hint} and no config; set --config=FILE")
    if (given.model, given.data.num_classes) != (facts["model"], facts["num_classes"]):
        raise UserError(
            f"{hint}, but --config is of {given.model} with {given.data.num_classes}; set --config.model="
            f"{facts['model']} and --config.data.num_classes={facts['num_classes']}"
        )
    return given


def _check_same(workdir: Path, old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...]) -> None:
    old, new = _flatten(old), _flatten(new)
    changes = [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in free
    ]
    if changes:
        raise UserError(f"workdir {str(workdir)!r} holds a run of another config ({'; '.join(changes)}); "
                        "choose another --workdir or repeat that run's config")  # fmt: skip


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
