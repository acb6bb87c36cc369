"""The folder of one run, tied to one config; or of weights alone."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acmix_jax.config import flatten, follow_data, may_change, restore_config
from acmix_jax.errors import UserError, first_few, printable

WEIGHTS = "weights.json"
"""The facts about a folder of converted or folded weights; such a folder has no config.json."""
FACTS = ("classes", "colors", "image_size")
"""Facts about a run's data beside its config: names of the classes, their colours as #rrggbb, and height and width of
the images that it trained on."""


def prepare(
    workdir: Path, config: Any, images: int, environment: dict[str, Any], classes: Sequence[str] | None = None,
    **facts: Any,
) -> None:  # fmt: skip
    """Creates the folder and writes config.json, or checks that the run in it has the same config.

    Args:
      images: number of training images, which determines their order in an epoch.
      environment: versions, devices and so on, for config.json's "environment"; may change.
      classes: names that the labels stand for, in order, for config.json's "classes"; see `check_classes`.
      **facts: others about the data, one of FACTS each; those that are None are left out.

    Raises:
      UserError: the folder cannot be written, or holds a run of another config or number of images.
    """
    path = workdir / "config.json"
    if (workdir / WEIGHTS).exists():
        is_folded = read_facts(workdir).get("folded")
        hint = "" if is_folded else f"set --config.init_from={workdir} to train from them, and "
        raise UserError(f"{str(workdir)!r} holds weights and no run; {hint}choose another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            saved = json.loads(path.read_text())
            facts = {name: saved.get(name) if facts.get(name) is None else facts[name] for name in FACTS[1:]}
            classes = classes or saved.get("classes")
            before = saved.get("environment", {}).get("training_images", images)
            _check_same(workdir, _config_in(saved), config)
            if before != images:
                raise UserError(
                    f"the run in {str(workdir)!r} started with {before:,} training images, now there are {images:,}; "
                    "restore them (--config.data.damaged=skip leaves out corrupt ones), or choose another --workdir"
                )
        temporary = path.with_suffix(".tmp")
        content = config.to_dict() | {"environment": environment | {"training_images": images}}
        content |= {"classes": list(classes)} if classes else {}
        content |= {name: fact for name, fact in facts.items() if fact is not None}
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        temporary.replace(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is corrupt ({error}); choose another --workdir") from error
    except OSError as error:
        raise UserError(f"cannot write to {str(workdir)!r} ({error.strerror}); choose another --workdir") from error


def check_classes(folder: Path, classes: Sequence[str] | None) -> None:
    """Checks that labels mean what they meant to the run in `folder`, or to the run whose weights it holds.

    Args:
      classes: names of the classes of the data, in the order of their labels. Without them, or where the run has not
        recorded its own, there is nothing to check.

    Raises:
      UserError: the names or their order differ; tells the first difference.
    """
    change = class_change(read_facts(folder).get("classes"), classes)
    if change:
        raise UserError(
            f"the classes of the data are not those that {str(folder)!r} was trained on: {change}; restore the class "
            "names and their order, or choose another --workdir"
        )


def class_change(old: Sequence[str] | None, new: Sequence[str] | None) -> str:
    """The first difference between two lists of class names, as text; empty if there is none, or one is unknown.

    Names are compared as they are: with upper and lower case, and with each Unicode form of an accented letter.
    """
    if not old or not new or list(old) == list(new):
        return ""
    label = next((i for i, (was, now) in enumerate(zip(old, new, strict=False)) if was != now), min(len(old), len(new)))
    was, now = (names[label] if label < len(names) else "no class" for names in (old, new))
    look_alike = unicodedata.normalize("NFC", was) == unicodedata.normalize("NFC", now)
    was, now = (ascii(name) if look_alike else first_few([printable(name)]) for name in (was, now))
    after = f", after {first_few([printable(old[label - 1])])}," if label else ""
    gone, added = ([name for name in one if name not in other] for one, other in ((old, {*new}), (new, {*old})))
    lists = [f"{what}: {first_few(map(printable, names))}" for what, names in (("gone", gone), ("new", added)) if names]
    return f"label {label}{after} was {was} and is {now} ({'; '.join(lists) or 'the order changed'})"


def config_to_look_with(workdir: Path, given: Any | None) -> Any:
    """The config for evaluating or inspecting a folder: its own, or `given` if that is compatible.

    A number of classes that is None in `given` is that of the weights.

    Raises:
      UserError: the folder holds no weights; `given` differs from the run's config in more than the batch size, scales
        and flips of the evaluation and the fields that may change; or no run made the weights, and `given` is missing
        or names another model or number of classes.
    """
    facts = read_facts(workdir)
    own, hint = facts.get("config"), f"{str(workdir)!r} holds weights of {facts['model']} with {facts['num_classes']}"
    if given is None and own is None:
        raise UserError(f"{hint} classes and no config; set --config=FILE")
    if given is None:
        return restore_config(own, workdir)
    given = follow_data(given, facts["num_classes"])
    if own is not None:
        _check_same(workdir, own, given, "batch_size", "test_scales", "test_flip")
    elif (given.model, given.data.num_classes) != (facts["model"], facts["num_classes"]):
        raise UserError(
            f"{hint} classes, but --config is of {given.model} with {given.data.num_classes}; set --config.model="
            f"{facts['model']} and --config.data.num_classes={facts['num_classes']}"
        )
    return given


def model_of(folder: Path) -> str:
    """Name of the model whose weights are in a folder; raises like `read_facts`."""
    return read_facts(folder)["model"]


def read_facts(folder: Path) -> dict[str, Any]:
    """Facts about the weights in a folder: "model", "num_classes"; "config" and "classes" (names) if a run made them.

    Raises:
      UserError: it is neither a workdir nor a folder of weights.
    """
    hint = "restore it, or choose another folder"
    for name in (WEIGHTS, "config.json"):
        try:
            saved = json.loads((folder / name).read_text())
            if name == WEIGHTS:
                return {key: saved[key] for key in ("model", "num_classes")} | saved  # these two are required
            config = _config_in(saved)
            facts = {"model": config["model"], "num_classes": config["data"]["num_classes"], "config": config}
            return facts | {name: saved[name] for name in FACTS if name in saved}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except KeyError as error:
            raise UserError(f"{folder / name} has no {error}: it is corrupt or of another version; {hint}") from error
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"cannot read {folder / name} ({error}); {hint}") from error
    raise UserError(f"{str(folder)!r} holds neither a run nor converted or folded weights; check the path")


def environment_of(folder: Path) -> dict[str, Any]:
    """Versions, devices and so on of a run, see `prepare`; empty if the folder has none."""
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


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Marks a folder as one of weights alone; `facts` are those of `read_facts`, and others.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        (folder / WEIGHTS).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}); choose another --out") from error


def _config_in(saved: dict[str, Any]) -> dict[str, Any]:
    """The config alone, from the content of config.json."""
    return {key: value for key, value in saved.items() if key not in ("environment", *FACTS)}


def _check_same(workdir: Path, saved: dict[str, Any], config: Any, *ignored: str) -> None:
    old, new = flatten(restore_config(saved, workdir).to_dict()), flatten(config.to_dict())
    changes = [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not may_change(key) and key not in ignored
    ]
    if changes:
        raise UserError(f"workdir {str(workdir)!r} holds a run of another config ({first_few(changes, width=80)}); "
                        "choose another --workdir or that run's config")  # fmt: skip
