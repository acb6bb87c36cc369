"""The installed package works outside the repository, with its base dependencies alone."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import acmix_jax

ROOT = Path(__file__).parent.parent
PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_base_dependencies_are_few():
    lines = (ROOT / "requirements" / "base.txt").read_text().splitlines()
    assert [re.match(r"\w+", line)[0] for line in lines if not line.startswith("#")] == [
        "jax",
        "flax",
        "numpy",
        "einops",
    ]


def test_every_requirements_file_is_an_extra():
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    listed = {file for entry in (dynamic["dependencies"], *dynamic["optional-dependencies"].values())
              for file in entry["file"]}  # fmt: skip
    assert listed == {f"requirements/{path.name}" for path in (ROOT / "requirements").iterdir()}


def test_import_needs_no_training_library():
    """Of those in requirements/train.txt, only what flax itself depends on."""
    absent = ["ml_collections", "clu", "grain", "matplotlib", "sklearn", "tensorboardX", "PIL", "torch", "configs"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import acmix_jax; acmix_jax.ACmix(8)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_readme_runs_from_an_installed_package(tmp_path):
    source, home = tmp_path / "source", tmp_path / "home"
    for name in ("acmix_jax", "requirements"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    home.mkdir()
    python = tmp_path / "venv" / "bin" / "python"

    def run(*command):
        done = subprocess.run(command, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source)
    assert run(python, "-c", "import acmix_jax; print(acmix_jax.__version__)").strip() == acmix_jax.__version__
    assert (run(python, "-c", "import acmix_jax; print(acmix_jax.__path__[0])")).startswith(str(tmp_path / "venv"))
    assert not any(run(python, "-m", "pip", "list").count(name) for name in ("clu", "grain", "scikit-learn"))
    for number, code in enumerate(PYTHON):
        script = home / f"block{number}.py"  # traced as a whole, which compiles nothing
        script.write_text(f"import jax\njax.eval_shape(lambda: exec({code!r}, {{}}))\n")
        run(python, script)
    run(python, "-m", "acmix_jax.analysis.complexity", "--model=acmix_resnet14_stem1", "--image-size=32")
