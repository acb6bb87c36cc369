"""Runs a config for each of several settings, goes on where it was stopped, and shows all results together.

python -m experiments.sweep --config=configs/sweep_digits.py --workdir=runs/sweep [--parallel=N] [--print-commands]

The config file defines `sweep()`, which yields {"field": value} for each run, such as {"optimizer.learning_rate": 0.1}.
Every run is `main.py` in a process and a folder of its own, whose output is in its log.txt; runs that are finished are
left alone. Writes sweep.csv (a row for each run) and sweep.png (the metric over each field, alpha and beta by depth).
--print-commands prints the commands of the runs that are not finished, one a line, for a job array; the sweep's command
then collates what they did.
"""

import argparse
import contextlib
import csv
import fcntl
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from acmix_jax.analysis import alpha_beta
from acmix_jax.errors import UserError
from acmix_jax.run.metrics import read_metrics

MAIN = Path(__file__).parent.parent / "main.py"


class Run(NamedTuple):
    """One setting of the sweep."""

    settings: dict[str, Any]
    folder: Path
    command: list[str]

    @property
    def is_finished(self) -> bool:
        """Whether its program once ended without an error."""
        return (self.folder / "finished").exists()


def function_of(config: str, name: str) -> Callable:
    """The function of that name in a config file; raises a UserError if there is none."""
    path = Path(config.partition(":")[0])
    if not path.is_file():
        raise UserError(f"--config={config}: no such file")
    spec = importlib.util.spec_from_file_location("swept_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise UserError(f"{path} has no function {name}(), see python -m experiments.{name} --help")
    return getattr(module, name)


def run_with(settings: dict[str, Any], config: str, workdir: Path) -> Run:
    """The run of a config with these settings, in a folder named after them."""
    name = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in settings.items())
    folder = workdir / (name.replace("/", "_") or "default")
    command = [sys.executable, str(MAIN), f"--config={config}", f"--workdir={folder}"]
    return Run(settings, folder, command + [f"--config.{field}={value}" for field, value in settings.items()])


def runs_of(config: str, workdir: Path) -> list[Run]:
    """The runs that the config file asks for.

    Raises:
      UserError: there is no such file, or it has no `sweep`.
    """
    found = [run_with(settings, config, workdir) for settings in function_of(config, "sweep")()]
    if len({run.folder for run in found}) < len(found):
        raise UserError(f"sweep() of {config} yields the same settings twice")
    return found


def check_same(run: Run) -> None:
    """Raises a UserError if the folder is named alike, but holds a run of other arguments, such as another config."""
    arguments = [part for part in run.command[2:] if not part.startswith("--workdir=")]
    written = run.folder / "arguments.json"
    if not written.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(arguments))
    elif (found := json.loads(written.read_text())) != arguments:
        raise UserError(f"{run.folder} is a run of {shlex.join(found)}; choose another folder for the runs")


def execute(run: Run, started: set) -> bool:
    """Runs its program unless it is finished; whether it is then."""
    check_same(run)
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the program inherits it: one that a killed sweep left behind is waited for
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
    """A signal is passed on to the programs, which save and end; no other is started."""

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


def run_all(runs: list[Run], parallel: int) -> None:
    """Runs what is not finished, so many at a time.

    Raises:
      UserError: some runs failed, names their logs; or a folder holds another run.
    """
    for run in runs:  # all before the first starts
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


def check_ended(stopped: threading.Event, failed: list[Run]) -> None:
    """Raises a UserError if a signal stopped it, or runs failed; names their logs."""
    if stopped.is_set():
        raise UserError("stopped; the same command continues")
    if failed:
        raise UserError(f"{len(failed)} runs failed; see {', '.join(str(run.folder / 'log.txt') for run in failed)}")


def collate(runs: list[Run], table: Path, metric: str) -> list[dict[str, Any]]:
    """Writes a table: settings, whether the run is finished, and its last and best evaluation; returns the rows."""
    rows = []
    for run in runs:
        evaluated = [row for row in read_metrics(run.folder) if metric in row]
        rows.append(
            {**run.settings, "finished": run.is_finished, "folder": run.folder.name}
            | ({f"best_{metric}": max(row[metric] for row in evaluated)} | evaluated[-1] if evaluated else {})
        )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def draw(rows: list[dict[str, Any]], fields: list[str], metric: str, path: Path) -> None:
    """The metric over each field, and alpha and beta by depth of all runs."""
    rows = [row for row in rows if metric in row]
    learned = [(row["folder"], layers) for row in rows if (layers := alpha_beta.from_scalars(row))]
    figure = Figure(figsize=(4 * (len(fields) + 2 * bool(learned)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(fields) + 2 * bool(learned), squeeze=False)[0]
    for axes, field in zip(panels, fields, strict=False):
        having = [row for row in rows if field in row]
        values = [row[field] for row in having]
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        axes.plot(values if is_number else [str(value) for value in values], [row[metric] for row in having], "o")
        if is_number and min(values, default=0) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
        axes.set_xlabel(field)
        axes.set_ylabel(metric)
    for axes, name in zip(panels[len(fields) :], ("alpha", "beta"), strict=False):
        for folder, layers in learned:
            axes.plot(range(1, len(layers) + 1), [getattr(x, name) for x in layers], "o-", label=folder)
        axes.set_xlabel("layer, input to output")
        axes.set_ylabel(name)
    if learned:
        panels[-1].legend(fontsize="x-small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Reads the flags; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="experiments.sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="config file with a function sweep(), and :ARGUMENT")
    parser.add_argument("--workdir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--metric", default="eval_top1", help="of metrics.jsonl, for the picture")
    parser.add_argument("--print-commands", action="store_true", help="print what is not finished, run nothing")
    flags = parser.parse_args()
    try:
        runs = runs_of(flags.config, flags.workdir)
        if flags.print_commands:
            for run in (run for run in runs if not run.is_finished):
                print(f"{shlex.join(run.command)} && touch {shlex.quote(str(run.folder / 'finished'))}")
            return
        flags.workdir.mkdir(parents=True, exist_ok=True)
        try:
            run_all(runs, flags.parallel)
        finally:
            rows = collate(runs, flags.workdir / "sweep.csv", flags.metric)
            fields = list(dict.fromkeys(field for run in runs for field in run.settings))
            draw(rows, fields, flags.metric, flags.workdir / "sweep.png")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{flags.workdir / 'sweep.csv'}\n{flags.workdir / 'sweep.png'}")


if __name__ == "__main__":
    main()
