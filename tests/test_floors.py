"""Imports go down only: a package imports from lower floors and from itself, never from its own floor or above."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [  # from the ground up
    ("errors",),
    ("ops", "devices", "config", "evaluators"),
    ("layers", "run"),
    ("backbones", "heads", "data"),
    ("models",),
    ("weights",),
    ("analysis", "convert"),
    ("tasks",),
    ("training",),
    ("benchmark",),
]
LEVEL = {f"acmix_jax.{room}": level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(ROOT) for folder in ("acmix_jax", "configs") for path in (ROOT / folder).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(name):
    """The package of a module, such as acmix_jax.ops; at the root, the module itself."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down(path):
    own = [name for name in imports(path) if name.startswith(("acmix_jax", "configs", "experiments", "tests"))]
    if path.parts[0] == "configs":
        assert {room(name) for name in own} <= {"acmix_jax.config"}
        assert {name.partition(".")[0] for name in imports(path)} <= {"acmix_jax", "ml_collections"}
    elif path.name != "__init__.py" or len(path.parts) > 2:
        here = room(".".join(path.with_suffix("").parts))
        wrong = [name for name in own if room(name) != here and LEVEL[room(name)] >= LEVEL[here]]
        assert not wrong, f"{path} imports {wrong}, which are not below it"


def test_each_library_has_one_room():
    everywhere = [*FILES, Path("main.py"), *(path.relative_to(ROOT) for path in (ROOT / "experiments").rglob("*.py"))]
    rooms = {
        library: {str(path) for path in everywhere if any(name.split(".")[0] == library for name in imports(path))}
        for library in ("orbax", "tensorboardX", "tensorflow", "tensorflow_datasets")
    }
    assert rooms == {
        "orbax": {"acmix_jax/run/checkpoint.py"},
        "tensorboardX": {"acmix_jax/run/metrics.py"},
        "tensorflow": {"experiments/input_speed.py"},  # to compare with
        "tensorflow_datasets": {"acmix_jax/data/tfds.py"},
    }


def test_operators_do_not_know_flax():
    assert not [p for p in FILES if p.parts[1] == "ops" for name in imports(p) if name.startswith("flax")]


def test_the_root_holds_what_a_user_names():
    modules = {path.stem for path in FILES if path.parts[0] == "acmix_jax" and len(path.parts) == 2}
    assert modules <= {"__init__", "config", "errors", "models"}
