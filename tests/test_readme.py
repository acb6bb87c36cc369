"""The commands, snippets, names, paths and links of README and docs are true.

Commands run here on a small scale, or elsewhere as ELSEWHERE says.
"""

import gzip
import importlib
import itertools
import os
import re
import shlex
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.photographs import write_folder

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page: page.read_text() for page in PAGES}
ELSEWHERE = {  # part of a command: where it runs instead
    "make ": ".ci/run",
    "acmix_jax.convert": "tests/parity/parity_files.py (needs PyTorch)",
    "experiments.sweep": "tests/experiments/test_sweep.py",
    "acmix_jax.benchmark.tpu_schedule": "tests/benchmark/test_tpu_schedule.py",
    "experiments.kernel_cycles": "tests/experiments/test_kernel_cycles.py",
    "experiments.compile_for": "tests/experiments/test_compile_for.py",
    "experiments.kernel_times": "tests/experiments/test_speed.py",
    "experiments.network_speed": "tests/experiments/test_speed.py",
    "experiments.table1_costs": "tests/experiments/test_table1_costs.py",
    "experiments.input_speed": "tests/experiments/test_speed.py",
}
SMALLER = {  # part of a command: arguments that make it quick; {data} holds small images in the format of Fashion-MNIST
    "configs/digits.py": "--config.num_epochs=0.05 --config.eval_every=0",
    "configs/fashion_mnist.py": "--config.num_epochs=1 --config.batch_size=8 --config.data.dir={data}",
    "configs/imagenet.py": "--config.model=acmix_swin_micro_patch2 --config.data.image_size=32 --config.batch_size=8 "
    "--config.data.eval_resize=36 --config.data.workers=1 --config.num_epochs=1",
    "configs/scenes.py": "--config.num_epochs=0.002 --config.model=resnet20_stem2 --config.head_width=4",
    "configs/ade20k.py": "--config.model=resnet14_stem1 --config.head=semantic_fpn --config.head_width=8 "
    "--config.batch_size=8 --config.num_epochs=1 --config.data.image_size=32 --config.data.short_side=32 "
    "--config.data.workers=1 --config.drop_path=None --config.init_from=",
    "experiments.operator_speed": "--layers='resnet 512@7' --rounds=1 --batch=1",
    "acmix_jax.analysis.complexity": "--model=acmix_resnet26",
    "experiments.search": "--trials=1",
    "experiments.table5_inference": "--networks=resnet14_stem1 --img-size=32 --batches=1,2 --rounds=1",
    "experiments.table6_paths": "--config=configs/digits.py --seeds=1 --set num_epochs=0.05 --rows=beta",
    "experiments.table7_shifts": "--config=configs/digits.py --seeds=1 --set num_epochs=0.05 --rows='N groups' "
    "--speed-image-size=28 --speed-rounds=1",
}


def blocks(language):
    """The lines of each fenced block, with the name of its page."""
    for page, text in TEXT.items():
        for block in re.findall(rf"^( *)```{language}\n(.*?)```", text, re.S | re.M):
            yield page.relative_to(ROOT), textwrap.dedent(block[1]).splitlines()


def is_elsewhere(line):
    return any(part in line for part in ELSEWHERE)


def commands():
    """The commands of each block that run here; those that train take minutes to compile and are slow."""
    for page, lines in blocks("bash"):
        lines = [line for line in lines if "python " in line and not is_elsewhere(line)]
        is_slow = any(re.search(r"main\.py|_speed |sweep_digits|table6", line) for line in lines)
        if lines and not str(page).startswith("docs/results/"):
            yield pytest.param(lines, marks=pytest.mark.slow if is_slow else (), id=f"{page}: {lines[0]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stands in for runs/; holds 16 images in the format of Fashion-MNIST, images/ and, in ADE20K's layout, ade20k/."""
    folder = tmp_path_factory.mktemp("readme")
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", np.zeros((16, 28, 28))), ("labels-idx1", np.arange(16) % 10)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            packed = gzip.compress(header + array.astype(np.uint8).tobytes())
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(packed)
    write_folder(folder / "images", train=4, test=2)
    for split in ("training", "validation"):
        for kind, channels in (("images", (3,)), ("annotations", ())):
            (folder / "ade20k" / kind / split).mkdir(parents=True)
            for number in range(8):
                pixels = np.random.default_rng(number).integers(0, 4, (40, 48, *channels), np.uint8)
                Image.fromarray(pixels).save(folder / "ade20k" / kind / split / f"{number}.png")
    (folder / "ade20k" / "classes.csv").write_text("name\nwall\nsky\ntree\n")
    return folder


@pytest.mark.parametrize("lines", list(commands()))
def test_commands_run(lines, folder):
    for line in lines:
        smaller = next((more for key, more in SMALLER.items() if key in line), "").format(data=shlex.quote(str(folder)))
        command = re.sub(r"\bpython ([^;]+)", lambda m: f"{sys.executable} {m[1]} {smaller}", line)  # noqa: B023
        command = command.replace("num_epochs=1,seed", "num_epochs=0.05,seed")
        for word, path in (("runs/", f"{folder}/"), ("IMAGES", folder / "images"), ("ADE20K", folder / "ade20k")):
            command = command.replace(word, str(path))
        environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
        done = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_line_of_a_bash_block_runs_somewhere():
    lines = [line for page, block in blocks("bash") for line in block if "docs/results/" not in str(page)]
    assert [line for line in lines if line and "python " not in line and not is_elsewhere(line)] == []


@pytest.mark.parametrize("file", sorted({where.split()[0] for where in ELSEWHERE.values()}))
def test_the_tests_that_run_the_other_commands_exist(file):
    assert (ROOT / file).is_file()


def test_make_targets_run_in_ci():
    targets = {line.split()[1] for _, lines in blocks("bash") for line in lines if line.startswith("make ")}
    assert targets <= set(re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(), re.M))


@pytest.mark.parametrize("code", ["\n".join(lines) for _, lines in blocks("python")])
def test_snippets_run(code):
    jax.eval_shape(lambda: exec(compile(code, "snippet", "exec"), {}))  # traces all of it and compiles nothing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT[page]):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_exist(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", TEXT[page]):
        headings = re.findall(r"^#+ (.*)", (page.parent / target if target else page).read_text(), re.M)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{target}#{anchor}"


def inline_code(page):
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT[page], flags=re.S))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_inline_names_of_the_package_exist(page):
    for name in re.findall(r"(?<![\w/])acmix_jax(?:\.[A-Za-z_]\w*)+", "\n".join(inline_code(page))):
        parts, found = name.split(".")[1:], importlib.import_module("acmix_jax")
        for i, part in enumerate(parts):
            if not hasattr(found, part):
                importlib.import_module(".".join(["acmix_jax", *parts[: i + 1]]))
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_inline_paths_exist(page):
    for path in inline_code(page):
        if re.fullmatch(r"(acmix_jax|configs|docs|experiments|tests|\.ci)/[\w./-]*", path):
            assert (ROOT / path).exists() or "NAME" in path, path


def test_readme_is_short():
    assert len(TEXT[ROOT / "README.md"].splitlines()) <= 120


def test_options_on_a_new_line_belong_to_the_command_before():
    for text in TEXT.values():
        for block in re.findall(r"```(?:bash)?\n(.*?)```", text, re.S):
            for line, after in itertools.pairwise(block.splitlines()):
                assert line.endswith("\\") or not after.lstrip().startswith("--"), after
