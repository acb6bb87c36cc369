"""Runs a config once for each of several settings, continues where it was stopped, and collates the results.

python -m experiments.sweep --config=configs/sweep_digits.py --workdir=runs/sweep [--parallel=N] [--print-commands]

The config file defines `sweep()`, which yields {"field": value} for each run, such as {"optimizer.learning_rate": 0.1}.
Each run is `main.py` in a process and a folder of its own, with its output in log.txt; finished runs are skipped.
Writes sweep.csv (one row per run) and sweep.png (the metric over each field, alpha and beta by depth).
--print-commands prints the commands of the unfinished runs, one per line, for a job array; the command without it then
collates their results.
"""

import argparse
import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from acmix_jax.analysis import alpha_beta
from acmix_jax.config import local_path
from acmix_jax.errors import UserError, first_few, one_line_errors
from acmix_jax.run.metrics import read_metrics
from experiments import results
from experiments.runs import Run, run_all, run_with


def function_of(config: str, name: str) -> Callable:
    """The function of that name in a config file; raises a UserError if there is none."""
    path = Path(config.partition(":")[0])
    if not path.is_file():
        raise UserError(f"--config={config} is no file; name one such as configs/sweep_digits.py")
    spec = importlib.util.spec_from_file_location("swept_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise UserError(f"{path} has no function {name}(), see python -m experiments.{name} --help")
    return getattr(module, name)


def runs_of(config: str, workdir: Path) -> list[Run]:
    """The runs that the config file asks for.

    Raises:
      UserError: no such file, it has no `sweep`, or it yields the same settings twice.
    """
    runs = [run_with(settings, config, workdir) for settings in function_of(config, "sweep")()]
    folders = [run.folder.name for run in runs]
    if twice := [name for name in dict.fromkeys(folders) if folders.count(name) > 1]:
        raise UserError(f"sweep() of {config} yields {first_few(twice, width=100)} twice; remove one of each")
    return runs


def collate(runs: list[Run], table: Path, metric: str) -> list[dict[str, Any]]:
    """Writes a table of settings, state, and the last and best evaluation of each run; returns its rows."""
    rows = []
    for run in runs:
        evaluated = [row for row in read_metrics(run.folder) if metric in row]
        rows.append(
            {**run.settings, "finished": run.is_finished, "folder": run.folder.name}
            | ({f"best_{metric}": max(row[metric] for row in evaluated)} | evaluated[-1] if evaluated else {})
        )
    results.write_table(table, rows, digits=None)
    return rows


def draw(rows: list[dict[str, Any]], fields: list[str], metric: str, path: Path) -> None:
    """Draws the metric over each field, and alpha and beta by depth of all runs."""
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


def summarize(runs: list[Run], metric: str, path: Path) -> list[dict[str, Any]]:
    """Writes `path`.csv and `path`.png; returns the rows of the table."""
    rows = collate(runs, path.with_suffix(".csv"), metric)
    fields = list(dict.fromkeys(field for run in runs for field in run.settings))
    draw(rows, fields, metric, path.with_suffix(".png"))
    return rows


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="experiments.sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="config file with a function sweep(), and :ARGUMENT")
    parser.add_argument("--workdir", required=True, type=local_path, help="gets a folder for each run")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--metric", default="eval_top1", help="of metrics.jsonl, for the picture")
    parser.add_argument("--print-commands", action="store_true", help="print what is not finished, run nothing")
    arguments = parser.parse_args()
    runs = runs_of(arguments.config, arguments.workdir)
    if arguments.print_commands:
        for run in (run for run in runs if not run.is_finished):
            print(f"{shlex.join(run.command)} && touch {shlex.quote(str(run.folder / 'finished'))}")
        return
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    try:
        run_all(runs, arguments.parallel)
    finally:
        summarize(runs, arguments.metric, arguments.workdir / "sweep")
    print(f"{arguments.workdir / 'sweep.csv'}\n{arguments.workdir / 'sweep.png'}")


if __name__ == "__main__":
    main()
