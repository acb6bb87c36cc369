"""README's commands do what it says: each is run here on a small scale, or by .ci/run as it stands.

Those that need PyTorch are run by tests/parity/parity_files.py, the sweep, network_speed and table1_costs by
tests/experiments.
"""

import gzip
import itertools
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.photographs import write_folder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
SHELL = [line for block in BLOCKS for line in block if line]
COMMANDS = [
    [line for line in block if "python " in line and not re.search("convert|sweep |network_speed|table1_costs", line)]
    for block in BLOCKS
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SMALLER = {  # what makes a command quick; the data folder stands in for the Debian package
    "configs/digits.py": "--config.num_epochs=0.05 --config.eval_every=0",
    "configs/fashion_mnist.py": "--config.num_epochs=1 --config.batch_size=8 --config.data.dir={data}",
    "configs/imagenet.py": "--config.model=acmix_swin_micro_patch2 --config.data.image_size=32 --config.batch_size=8 "
    "--config.data.eval_resize=36 --config.data.workers=1 --config.num_epochs=1",
    "experiments.operator_speed": "--layers='resnet 512@7' --rounds=1 --batch=1",
    "acmix_jax.analysis.complexity": "--model=acmix_resnet26",
    "experiments.search": "--trials=1",
    "experiments.table5_inference": "--networks=resnet14_stem1 --img-size=32 --batches=1,2 --rounds=1",
    "experiments.table6_paths": "--config=configs/digits.py --seeds=1 --set num_epochs=0.05 --rows=beta",
    "experiments.table7_shifts": "--config=configs/digits.py --seeds=1 --set num_epochs=0.05 --rows='N groups' "
    "--speed-image-size=28 --speed-rounds=1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for runs/, with 16 images in the format of Fashion-MNIST, and images/."""
    folder = tmp_path_factory.mktemp("readme")
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", np.zeros((16, 28, 28))), ("labels-idx1", np.arange(16) % 10)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            packed = gzip.compress(header + array.astype(np.uint8).tobytes())
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(packed)
    write_folder(folder / "images", train=4, test=2)
    return folder


def marked(lines):
    """Those that train take minutes to compile; the fast tests have their parts, and `.ci/run` calls the slow ones."""
    is_slow = any(re.search(r"main\.py|_speed |sweep_digits|table6", line) for line in lines)
    return pytest.param(lines, marks=pytest.mark.slow) if is_slow else lines


@pytest.mark.parametrize("lines", [marked(lines) for lines in COMMANDS if lines], ids=lambda lines: lines[0])
def test_commands_run(lines, place):
    """Those of one block, in their order."""
    for line in lines:
        smaller = next((more for key, more in SMALLER.items() if key in line), "").format(data=shlex.quote(str(place)))
        command = re.sub(r"\bpython ([^;]+)", lambda m: f"{sys.executable} {m[1]} {smaller}", line)  # noqa: B023
        command = command.replace("num_epochs=1,seed", "num_epochs=0.05,seed")
        command = command.replace("runs/", f"{place}/").replace("IMAGES", str(place / "images"))
        environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
        done = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", PYTHON)
def test_snippets_run(code):
    jax.eval_shape(lambda: exec(compile(code, "README.md", "exec"), {}))  # traces it all, and compiles nothing


def test_make_targets_are_run_by_ci():
    targets = {line.split()[1] for line in SHELL if line.startswith("make ")}
    assert targets <= set(re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(), re.M))


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_options_on_a_new_line_belong_to_the_command_before():
    for page in [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```(?:bash)?\n(.*?)```", page, re.S):
            for line, after in itertools.pairwise(block.splitlines()):
                assert line.endswith("\\") or not after.lstrip().startswith("--"), after
