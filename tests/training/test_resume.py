"""Runs of main.py that are stopped and started again must end as if nothing had happened, bit for bit."""

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

ROOT = Path(__file__).parents[2]
STEPS = 150
EXAMPLES = 1437


def start(workdir, steps=STEPS, workers=0):
    epochs = steps * 16 / EXAMPLES
    command = [
        sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={workdir}", "--config.batch_size=16",
        f"--config.num_epochs={epochs}", "--config.eval_every=60", "--config.checkpoint_every=10",
        "--config.log_every=10", "--config.optimizer.learning_rate=0.01", "--config.log_examples=True",
        f"--config.data.workers={workers}",
    ]  # fmt: skip
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = os.environ | {"XLA_FLAGS": flags}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **output)


def end(process):
    output, _ = process.communicate(timeout=600)
    return output.decode()


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.001)


def saved(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def result(workdir, steps=STEPS):
    """The checksum of all arrays in the last checkpoint, what was logged on the way, and which images were seen."""
    assert max(saved(workdir)) == steps
    checksum = json.loads((workdir / "checkpoints" / str(steps) / "check" / "metadata").read_text())["checksum"]
    rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in lines(workdir / "metrics.jsonl")]
    return checksum, rows, lines(workdir / "examples_0.jsonl")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir)
    output = end(process)
    assert process.returncode == 0, output
    return workdir


def kill(workdir, moment, draw, steps):
    """Starts the run and kills it; whether it was still running, and whether half a checkpoint is left."""
    process = start(workdir, steps)
    before = saved(workdir)
    if moment == "start":
        time.sleep(draw.uniform(0, 5))
    else:
        wait_for(lambda: saved(workdir) - before, process)
        if moment == "save":
            wait_for(lambda: list((workdir / "checkpoints").glob("*tmp*")), process)
            time.sleep(draw.uniform(0, 0.03))
        else:
            time.sleep(draw.uniform(0, 0.3))
    process.kill()
    end(process)
    return process.returncode == -signal.SIGKILL, bool(list((workdir / "checkpoints").glob("*tmp*")))


def survive(workdir, moments, steps=STEPS):
    """A run that is killed at these moments and started again, to its end."""
    seed = time.time_ns()
    print("moments drawn with seed", seed)
    draw = random.Random(seed)
    kills, halves = zip(*(kill(workdir, moment, draw, steps) for moment in moments), strict=True)
    assert all(kills), "the run ended before it could be killed"
    assert any(halves), "no kill left half a checkpoint behind"
    process = start(workdir, steps)
    output = end(process)
    assert process.returncode == 0, output
    assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_killed_at_any_moment(uninterrupted, tmp_path):
    survive(tmp_path, ("save", "start", "save"))
    assert result(tmp_path) == result(uninterrupted)


@pytest.mark.slow
def test_killed_13_times_it_sees_each_image_once_in_each_epoch(tmp_path):
    steps = 900
    process = start(tmp_path / "undisturbed", steps)
    output = end(process)
    assert process.returncode == 0, output
    survive(tmp_path / "killed", 4 * ("save", "any", "start") + ("save",), steps)
    actual, expected = (result(tmp_path / name, steps) for name in ("killed", "undisturbed"))
    assert actual == expected
    seen = [index for row in actual[-1] for index in row["index"]]
    epochs = [seen[i : i + EXAMPLES] for i in range(0, len(seen), EXAMPLES)]
    assert len(epochs) == 11
    for epoch in epochs[:-1]:
        assert sorted(epoch) == list(range(EXAMPLES))
    assert len(set(epochs[-1])) == len(epochs[-1])


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_polite_signal_saves_first(uninterrupted, tmp_path, number, exit_code):
    """Sent to the whole group, as a terminal and a scheduler do."""
    process = start(tmp_path, workers=1)
    wait_for(lambda: saved(tmp_path), process)
    os.killpg(process.pid, number)
    output = end(process)
    assert process.returncode == exit_code, output
    step = max(saved(tmp_path))
    assert f"stopped and saved at step {step}; the same command continues" in output
    assert "Traceback" not in output
    if number == signal.SIGTERM:
        output = end(start(tmp_path))
        assert f"step {step} of {STEPS} done" in output
        assert result(tmp_path)[0] == result(uninterrupted)[0]


@pytest.mark.slow
def test_a_corrupt_checkpoint_gives_way_to_the_one_before(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for path in (workdir / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    output = end(start(workdir))
    assert f"warning: checkpoint {STEPS} is corrupt" in output
    assert f"step {STEPS - 10} of {STEPS} done" in output
    assert "Traceback" not in output
    assert result(workdir)[0] == result(uninterrupted)[0]
