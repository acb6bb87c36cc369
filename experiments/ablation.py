"""A table of settings, each run with several seeds: mean and standard deviation of the accuracy. For table*.py."""

import argparse
import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.run.metrics import read_metrics
from experiments import results, sweep

METRIC = "eval_top1"
CONFIG, FIELDS = "configs/fashion_mnist.py:acmix_swin_micro_patch2", ["num_epochs=1"]  # the small scale


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options of a table's file, whose docstring is `description`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="gets the table and the picture")
    parser.add_argument("--runs", type=Path, help="gets a folder for each run; tables with the same one share runs")
    parser.add_argument("--config", default=CONFIG, help=f"config file and :ARGUMENT; default {CONFIG}")
    parser.add_argument("--rows", default="", help="run only the rows with this in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--set", nargs="*", metavar="FIELD=VALUE",
        help=f"fields of all runs, to scale them; default {' '.join(FIELDS)} with the default config, else none",
    )  # fmt: skip
    return parser


def run_table(flags: argparse.Namespace, description: str, rows: dict[str, dict[str, Any]]) -> None:
    """Runs what is not finished, writes table.csv, table.png and record.json, and prints the table.

    Args:
      flags: of `parser_of`; a mistake in them ends the program with one line.
      description: the docstring of the table's file.
      rows: fields of the config by what the row is called.
    """
    try:
        fields = flags.set if flags.set is not None else FIELDS if flags.config == CONFIG else []
        if wrong := [field for field in fields if "=" not in field]:
            raise UserError(f"--set {wrong[0]} is not FIELD=VALUE, such as num_epochs=1")
        if flags.seeds < 1:
            raise UserError(f"--seeds={flags.seeds} runs nothing; use at least 1")
        if not (chosen := [name for name in rows if flags.rows in name]):
            raise UserError(f"--rows={flags.rows} is in no name of a row: {', '.join(rows)}")
        common, folder = dict(field.split("=", 1) for field in fields), flags.runs or flags.out / "runs"
        runs = {
            name: [sweep.run_with({**common, **own, "seed": seed}, flags.config, folder) for seed in range(flags.seeds)]
            for name, own in rows.items()
        }
        flags.out.mkdir(parents=True, exist_ok=True)
        try:
            sweep.run_all([run for name in chosen for run in runs[name]], flags.parallel)
        finally:
            found = {name: [top1 for run in of_row for top1 in _last(run)] for name, of_row in runs.items()}
            found = {name: values for name, values in found.items() if values or name in chosen}
            _write(flags.out / "table.csv", found)
            _draw(flags.out / "table.png", found)
            environments = [workdir.environment_of(run.folder) for of_row in runs.values() for run in of_row]
            results.write(
                flags.out, description, "measured here", list(filter(None, environments)), config=flags.config,
                fields=fields, seeds=list(range(flags.seeds)),
            )  # fmt: skip
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, values in found.items():
        print(f"{name:50} {_mean(values):6.2f} ± {_deviation(values):.2f} %  ({len(values)} seeds)")
    print(f"{flags.out / 'table.csv'}\n{flags.out / 'table.png'}")


def _last(run):
    """The accuracy at the end of a run, if that was reached."""
    return [row[METRIC] for row in read_metrics(run.folder) if METRIC in row][-1:] if run.is_finished else []


def _mean(values):
    return statistics.fmean(values) if values else float("nan")


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _overlapping(name, found):
    """The other rows whose mean is so near that one standard deviation to both sides of each overlaps."""
    reach = {other: _deviation(values) for other, values in found.items()}
    return [
        other
        for other in found
        if other != name and abs(_mean(found[name]) - _mean(found[other])) <= reach[name] + reach[other]
    ]


def _write(path, found):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "mean_top1", "standard_deviation", "seeds", "top1_of_each_seed", "overlaps_with"])
        for name, values in found.items():
            each = " ".join(f"{value:.2f}" for value in values)
            numbers = (f"{_mean(values):.2f}", f"{_deviation(values):.2f}", len(values), each)
            writer.writerow([name, *numbers, "; ".join(_overlapping(name, found))])


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
