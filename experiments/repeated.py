"""A table of settings, each run with several seeds: mean and standard deviation of the accuracy. For table*.py."""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from acmix_jax.errors import UserError
from acmix_jax.metrics_writer import read_metrics
from experiments import sweep

METRIC = "eval_top1"


def run_table(description: str, config: str, rows: dict[str, dict[str, Any]]) -> None:
    """The command line of a table's file.

    Args:
      description: its docstring.
      config: config file and argument, unless the command line names another.
      rows: fields of the config by what the row is called.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="gets the table, the picture and a folder for each run")
    parser.add_argument("--config", default=config, help=f"config file and :ARGUMENT; default {config}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of all runs, to scale them")
    flags = parser.parse_args()
    try:
        common = dict(field.split("=", 1) for field in flags.set)
        runs = {
            name: [
                sweep.run_with({**common, **fields, "seed": seed}, flags.config, flags.out)
                for seed in range(flags.seeds)
            ]
            for name, fields in rows.items()
        }
        flags.out.mkdir(parents=True, exist_ok=True)
        try:
            sweep.run_all([run for of_row in runs.values() for run in of_row], flags.parallel)
        finally:
            found = {name: [top1 for run in of_row for top1 in _last(run)] for name, of_row in runs.items()}
            _write(flags.out / "table.csv", found, next(iter(runs.values()))[0])
            _draw(flags.out / "table.png", found)
    except (UserError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name, values in found.items():
        print(f"{name:40} {_mean(values):6.2f} ± {_deviation(values):.2f} %  ({len(values)} seeds)")
    print(f"{flags.out / 'table.csv'}\n{flags.out / 'table.png'}")


def _last(run):
    """The accuracy at the end of a run, if that was reached."""
    return [row[METRIC] for row in read_metrics(run.folder) if METRIC in row][-1:] if run.is_finished else []


def _mean(values):
    return statistics.fmean(values) if values else float("nan")


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _write(path, found, run):
    """A row each, and under them what the runs ran on, from the record of one of them."""
    record = run.folder / "config.json"
    environment = json.loads(record.read_text())["environment"] if record.exists() else {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "mean_top1", "standard_deviation", "seeds", "top1_of_each_seed"])
        for name, values in found.items():
            each = " ".join(f"{value:.2f}" for value in values)
            writer.writerow([name, f"{_mean(values):.2f}", f"{_deviation(values):.2f}", len(values), each])
        writer.writerow([f"# {' '.join(sys.argv)}; {json.dumps(environment, sort_keys=True)}"])


def _draw(path, found):
    """A dot for each seed, the mean and one standard deviation to both sides."""
    figure = Figure(figsize=(7, 0.6 + 0.45 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(found.values()):
        axes.plot(values, [place] * len(values), "o", color="tab:gray", alpha=0.6)
        axes.errorbar(_mean(values), place, xerr=_deviation(values), fmt="d", color="tab:blue", capsize=4)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("top-1, %; each seed, mean and standard deviation")
    figure.savefig(path, dpi=150)
