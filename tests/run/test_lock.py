import fcntl
import os
import subprocess
import sys

import pytest

from acmix_jax.errors import UserError
from acmix_jax.run import lock

HOLD = """
import os, sys, time
from pathlib import Path
from acmix_jax.run import lock
with lock.held(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder, and a worker that was forked from it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(worker, 9)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, holder):
    message = rf"a run in '{tmp_path}' has not ended \(process {holder.pid} on .*\); wait for it, end it, or choose"
    with pytest.raises(UserError, match=message), lock.held(tmp_path):
        raise AssertionError
    assert holder.poll() is None


def test_a_killed_run_holds_nothing_though_its_worker_lives(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock.held(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_run_may_follow_another(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path / "new" / "run"):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to '.*file' .*--workdir"), lock.held(tmp_path / "file"):
        raise AssertionError


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with lock.held(tmp_path):
        pass
    assert (
        capsys.readouterr().err == f"warning: cannot lock '{tmp_path}' (No locks available); start no other run there\n"
    )
