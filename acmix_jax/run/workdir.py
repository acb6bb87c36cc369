"""The folder of one run: created, checked to be writable, and tied to one config."""

import json
from pathlib import Path
from typing import Any

from acmix_jax.config import flatten, may_change, restore_config
from acmix_jax.errors import UserError

WEIGHTS = "weights.json"
"""Says what a folder of converted or folded weights holds; such a folder has no config.json."""


def prepare(workdir: Path, config: Any, images: int, environment: dict[str, Any]) -> None:
    """Creates the folder and writes config.json, or checks that the run in it has the same config.

    Args:
      images: number of training images; the order of an epoch follows from it.
      environment: what the run runs on; goes into config.json under "environment", and may change.

    Raises:
      UserError: the folder cannot be written, or holds a run of another config or number of images.
    """
    path = workdir / "config.json"
    if (workdir / WEIGHTS).exists():
        hint = "" if describe(workdir).get("folded") else f"set --config.init_from={workdir} and "
        raise UserError(f"{str(workdir)!r} holds weights and no run; {hint}choose another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = json.loads(path.read_text())
            before = found.get("environment", {}).get("training_images", images)
            _check_same(workdir, _without_environment(found), config)
            if before != images:
                raise UserError(
                    f"the run in {str(workdir)!r} began with {before:,} training images, now there are {images:,}; "
                    "bring them back (--config.data.damaged=skip leaves out damaged ones), or choose another --workdir"
                )
        written = path.with_suffix(".tmp")
        content = config.to_dict() | {"environment": environment | {"training_images": images}}
        written.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        written.replace(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); choose another --workdir") from error
    except OSError as error:
        raise UserError(f"cannot write to workdir {str(workdir)!r} ({error.strerror}); choose another") from error


def config_to_look_with(workdir: Path, given: Any | None) -> Any:
    """The config for evaluating or inspecting what is in this folder: its own one, or `given` if that fits it.

    Raises:
      UserError: the folder holds no weights; `given` differs from the run's config in more than the batch size and the
        fields that may change; or the weights come from no run, and `given` is missing or of another model.
    """
    facts = describe(workdir)
    own, hint = facts.get("config"), f"{str(workdir)!r} holds weights of {facts['model']} with {facts['num_classes']}"
    if given is None and own is None:
        raise UserError(f"{hint} classes and no config; set --config=FILE")
    if given is None:
        return restore_config(own)
    if own is not None:
        _check_same(workdir, own, given, "batch_size")
    elif (given.model, given.data.num_classes) != (facts["model"], facts["num_classes"]):
        raise UserError(
            f"{hint} classes, but --config is of {given.model} with {given.data.num_classes}; set --config.model="
            f"{facts['model']} and --config.data.num_classes={facts['num_classes']}"
        )
    return given


def model_of(folder: Path) -> str:
    """The name of the model whose weights are in a folder; raises as `describe`."""
    return describe(folder)["model"]


def describe(folder: Path) -> dict[str, Any]:
    """What the weights in a folder are: "model" and "num_classes", and "config" where a run made them.

    Raises:
      UserError: it is neither a workdir nor a folder of weights.
    """
    for name in (WEIGHTS, "config.json"):
        try:
            found = json.loads((folder / name).read_text())
            if name == WEIGHTS:
                return {key: found[key] for key in ("model", "num_classes")} | found  # these two must be there
            found = _without_environment(found)
            return {"model": found["model"], "num_classes": found["data"]["num_classes"], "config": found}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except KeyError as error:
            raise UserError(f"{folder / name} says nothing of {error}: it is damaged or of another version") from error
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"cannot read {folder / name} ({error})") from error
    raise UserError(f"{str(folder)!r} holds neither a run nor weights that were converted or folded")


def apart_from_seed(config: dict[str, Any]) -> dict[str, Any]:
    """What runs have in common that only repeat each other with another seed; `config` as from `describe`."""
    values = flatten(restore_config(config).to_dict())
    return {key: value for key, value in values.items() if key != "seed" and not may_change(key)}


def environment_of(folder: Path) -> dict[str, Any]:
    """What a run ran on, see `prepare`; empty if the folder does not say."""
    try:
        return json.loads((folder / "config.json").read_text()).get("environment", {})
    except (OSError, json.JSONDecodeError):
        return {}


def check_unused(folder: Path) -> None:
    """Raises a UserError if the folder cannot be written, or holds a run or weights."""
    if any((folder / name).exists() for name in (WEIGHTS, "config.json")):
        raise UserError(f"{str(folder)!r} holds a run or weights already; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}); choose another --out") from error


def describe_weights(folder: Path, facts: dict[str, Any]) -> None:
    """Marks a folder as one of weights alone; `facts` as from `describe`, and others.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        (folder / WEIGHTS).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}); choose another --out") from error


def _without_environment(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "environment"}


def _check_same(workdir: Path, saved: dict[str, Any], config: Any, *ignored: str) -> None:
    old, new = flatten(restore_config(saved).to_dict()), flatten(config.to_dict())
    changes = [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not may_change(key) and key not in ignored
    ]
    if changes:
        raise UserError(f"workdir {str(workdir)!r} holds a run of another config ({'; '.join(changes)}); "
                        "choose another --workdir or repeat that run's config")  # fmt: skip
