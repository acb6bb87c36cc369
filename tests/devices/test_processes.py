"""Two processes with two virtual devices each, over real sockets, must compute what one process does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 20
pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(workdir, processes, steps=STEPS, devices=4, **fields):
    """The processes of one run, and the devices of all together; two processes have a worker each."""
    # Swin has no ReLU: one that rounding tips over would part two runs that compute the same. Without ACmix it
    # compiles in half the time.
    fields = {"model": "swin_micro_patch2"} | fields
    fields = {"num_epochs": steps * 64 / 1437, "log_every": 1, "eval_every": 0, "checkpoint_every": 5} | fields
    fields |= {"optimizer.learning_rate": 5e-4, "optimizer.warmup_epochs": 0.2}
    if processes > 1:
        fields |= {"data.workers": 1}
        fields |= {"distributed.coordinator": f"127.0.0.1:{free_port()}", "distributed.num_processes": processes}
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices // processes}")
    environment = os.environ | {"XLA_FLAGS": flags}
    # Only the first process writes the cache: it would wait for the others' compilation longer than gloo does.
    environment["JAX_ENABLE_COMPILATION_CACHE"] = str(processes == 1).lower()
    return [
        subprocess.Popen(
            [sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={workdir}"]
            + [f"--config.{name}={value}" for name, value in fields.items()]
            + ([f"--config.distributed.process_id={i}"] if processes > 1 else []),
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip


def finish(programs, timeout=480):
    outputs = [program.communicate(timeout=timeout)[0] for program in programs]
    assert [program.returncode for program in programs] == [0] * len(programs), "\n".join(outputs)
    return outputs


def wait_for_checkpoint(step, workdir, programs):
    while not (workdir / "checkpoints" / str(step)).exists():
        ended = [program for program in programs if program.poll() is not None]
        assert not ended, ended[0].communicate()[0]
        time.sleep(0.01)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def checksum(workdir, step=STEPS):
    return json.loads((workdir / "checkpoints" / str(step) / "check" / "metadata").read_text())["checksum"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, 1))
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    first, second = finish(start(folder, 2))
    assert "evaluation: top-1" in first
    assert "step" not in second  # one process reports
    return folder


def test_losses_and_evaluation_are_those_of_one_process(alone, together):
    one, two = rows(alone), rows(together)
    assert [row["step"] for row in two] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([r["loss"] for r in two], [r["loss"] for r in one], rtol=0, atol=1e-5)
    assert two[-1]["eval_examples"] == one[-1]["eval_examples"] == 360
    assert two[-1]["eval_top1"] == pytest.approx(one[-1]["eval_top1"], abs=0.3)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_checkpoint_is_continued_by_another_number_of_processes(alone, tmp_path, first, then):
    programs = start(tmp_path, first)
    wait_for_checkpoint(10, tmp_path, programs)
    for program in programs:
        program.kill()
        program.communicate()
    finish(start(tmp_path, then, devices=4 if then == 2 else 1))
    found, wanted = ([row["loss"] for row in rows(folder)] for folder in (tmp_path, alone))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_signal_to_one_saves_and_stops_both(together, tmp_path):
    """SIGINT becomes SIGTERM there, JAX's preemption notice: this tests all three."""
    programs = start(tmp_path, 2)
    wait_for_checkpoint(5, tmp_path, programs)
    programs[1].send_signal(signal.SIGINT)
    outputs = [program.communicate(timeout=300)[0] for program in programs]
    assert [program.returncode for program in programs] == [143, 143], "\n".join(outputs)
    assert "; the same command continues" in outputs[0]
    finish(start(tmp_path, 2))
    assert checksum(tmp_path) == checksum(together)


def worker_of(process):
    """The number of the process that prepares its batches."""
    children = [int(n) for path in Path("/proc").glob(f"{process}/task/*/children") for n in path.read_text().split()]
    (worker,) = (n for n in children if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes())
    return worker


def test_an_error_in_one_ends_both(tmp_path):
    programs = start(tmp_path, 2, steps=2000)
    wait_for_checkpoint(5, tmp_path, programs)
    os.kill(worker_of(programs[1].pid), signal.SIGKILL)
    outputs = [program.communicate(timeout=300)[0] for program in programs]
    assert all(program.returncode for program in programs)
    assert "error: a worker process of the input ended" in outputs[1]


def test_a_corrupt_checkpoint_is_moved_aside_once(together, tmp_path):
    shutil.copytree(together, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    first, _ = finish(start(tmp_path / "run", 2))
    assert first.count(f"warning: checkpoint {STEPS} is corrupt") == 1
    assert f"step {STEPS - 5} of {STEPS} done" in first
    assert checksum(tmp_path / "run") == checksum(together)


def test_after_one_is_killed_both_resume_to_the_same_result(together, tmp_path):
    programs = start(tmp_path, 2)
    wait_for_checkpoint(5, tmp_path, programs)
    programs[1].send_signal(signal.SIGKILL)
    output, _ = programs[0].communicate(timeout=300)
    programs[1].communicate()
    assert programs[0].returncode != 0
    assert output.strip().splitlines(), "the other process says why it ends"
    finish(start(tmp_path, 2))
    assert checksum(tmp_path) == checksum(together)
