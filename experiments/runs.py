"""Launches training runs: each one is `main.py` in a process and a folder of its own, and is run to its end once."""

import contextlib
import fcntl
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from acmix_jax.errors import UserError, first_few

MAIN = Path(__file__).parent.parent / "main.py"


class Run(NamedTuple):
    """A training run."""

    settings: dict[str, Any]  # config fields and their values
    folder: Path
    command: list[str]

    @property
    def is_finished(self) -> bool:
        """True once its program has ended without an error."""
        return (self.folder / "finished").exists()


def run_with(settings: dict[str, Any], config: str, workdir: Path) -> Run:
    """The run of a config with these settings, in a folder of `workdir` that is named after them."""
    name = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in settings.items())
    folder = workdir / (name.replace("/", "_") or "default")
    command = [sys.executable, str(MAIN), f"--config={config}", f"--workdir={folder}"]
    return Run(settings, folder, command + [f"--config.{field}={value}" for field, value in settings.items()])


def run_all(runs: list[Run], parallel: int) -> None:
    """Runs everything that is not finished, `parallel` runs at a time.

    Raises:
      UserError: some runs failed (names their logs), a signal stopped the program, or a folder holds another run.
    """
    for run in runs:  # all of them before the first starts
        check_same(run)
    waiting = [run for run in runs if not run.is_finished]
    done, started, stopped = len(runs) - len(waiting), set(), threading.Event()
    print(f"{len(runs)} runs, {done} finished before", file=sys.stderr)
    failed = []

    def one(run):
        nonlocal done
        if stopped.is_set():
            return
        if execute(run, started):
            done += 1
            print(f"{done} of {len(runs)} finished: {run.folder}", file=sys.stderr)
        elif not stopped.is_set():
            failed.append(run)
            print(f"failed: {run.folder}", file=sys.stderr)

    with stopping(started, stopped), ThreadPoolExecutor(parallel) as pool:
        list(pool.map(one, waiting))
    check_ended(stopped, failed)


def execute(run: Run, started: set) -> bool:
    """Runs its program unless it is finished; returns whether it is finished afterwards.

    Args:
      run: the run; its output is appended to log.txt in its folder.
      started: holds the program while it runs, for `stopping`.
    """
    check_same(run)
    with (run.folder / "lock").open("w") as lock:
        # The program inherits the lock, so that one that outlived its killed launcher is waited for.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if run.is_finished:
            return True
        with (run.folder / "log.txt").open("a") as log:
            program = subprocess.Popen(run.command, stdout=log, stderr=log, pass_fds=[lock.fileno()])
            started.add(program)
            code = program.wait()
            started.discard(program)
        if code == 0:
            (run.folder / "finished").touch()
        return code == 0


@contextlib.contextmanager
def stopping(started: set, stopped: threading.Event) -> Iterator[None]:
    """Passes SIGTERM and SIGINT on to the programs in `started`, which save and end, and sets `stopped`."""

    def stop(number, _):
        stopped.set()
        for program in list(started):
            program.send_signal(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_same(run: Run) -> None:
    """Raises a UserError if the folder holds a run with other arguments, such as another config."""
    arguments = [part for part in run.command[2:] if not part.startswith("--workdir=")]
    written = run.folder / "arguments.json"
    if not written.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(arguments))
    elif (before := json.loads(written.read_text())) != arguments:
        raise UserError(f"{run.folder} is a run of {shlex.join(before)}; choose another folder for the runs")


def check_ended(stopped: threading.Event, failed: list[Run]) -> None:
    """Raises a UserError if a signal stopped the program, or if runs failed; names their logs."""
    if stopped.is_set():
        raise UserError("stopped; the same command continues")
    if failed:
        logs = first_few((str(run.folder / "log.txt") for run in failed), width=200)
        raise UserError(f"{len(failed)} runs failed; see {logs}")
