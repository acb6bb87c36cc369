"""Runs of main.py that are killed and started again must end as if nothing had happened, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = 150


def start(workdir):
    epochs = STEPS * 16 / 1437
    command = [
        sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={workdir}", "--config.batch_size=16",
        f"--config.num_epochs={epochs}", "--config.eval_every=60", "--config.checkpoint_every=10",
        "--config.log_every=10", "--config.optimizer.learning_rate=0.01",
    ]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(process):
    output, _ = process.communicate(timeout=120)
    return output.decode()


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.001)


def saved(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def result(workdir):
    """The checksums of all arrays in the last checkpoint, and what was logged on the way."""
    assert max(saved(workdir)) == STEPS
    checksum = json.loads((workdir / "checkpoints" / str(STEPS) / "check" / "metadata").read_text())["checksum"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return checksum, [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir)
    output = end(process)
    assert process.returncode == 0, output
    return workdir


def test_killed_at_any_moment(uninterrupted, tmp_path):
    """Three kills in the middle of a save, and four at random moments of training or starting up."""
    seed = time.time_ns()
    print("moments drawn with seed", seed)
    draw = random.Random(seed)
    kills = halves = 0
    for moment in ("save", "any", "save", "any", "save", "start", "any"):
        process = start(tmp_path)
        before = saved(tmp_path)
        if moment == "start":
            time.sleep(draw.uniform(0, 4))
        else:
            wait_for(lambda before=before: saved(tmp_path) - before, process)
            if moment == "save":
                wait_for(lambda: list((tmp_path / "checkpoints").glob("*tmp*")), process)
                time.sleep(draw.uniform(0, 0.03))
            else:
                time.sleep(draw.uniform(0, 0.3))
        process.kill()
        end(process)
        kills += process.returncode == -signal.SIGKILL
        halves += bool(list((tmp_path / "checkpoints").glob("*tmp*")))
    assert kills >= 5, "the run ended before it could be killed"
    assert halves, "no kill left half a checkpoint behind"
    process = start(tmp_path)
    output = end(process)
    assert process.returncode == 0, output
    assert result(tmp_path) == result(uninterrupted)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_polite_signal_saves_first(uninterrupted, tmp_path, number, exit_code):
    process = start(tmp_path)
    wait_for(lambda: saved(tmp_path), process)
    process.send_signal(number)
    output = end(process)
    assert process.returncode == exit_code, output
    step = max(saved(tmp_path))
    assert f"stopped and saved at step {step}; the same command continues" in output
    assert "Traceback" not in output
    if number == signal.SIGTERM:
        output = end(start(tmp_path))
        assert f"step {step} of {STEPS} done" in output
        assert result(tmp_path)[0] == result(uninterrupted)[0]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for path in (workdir / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    output = end(start(workdir))
    assert f"warning: checkpoint {STEPS} is damaged" in output
    assert f"step {STEPS - 10} of {STEPS} done" in output
    assert "Traceback" not in output
    assert result(workdir)[0] == result(uninterrupted)[0]
