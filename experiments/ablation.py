"""A table of settings, each trained with several seeds: mean and standard deviation of a metric. Used by table*.py."""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from acmix_jax.config import local_path
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.run import workdir
from acmix_jax.run.metrics import read_metrics
from experiments import results
from experiments.runs import Run, run_all, run_with

CONFIG, FIELDS = "configs/fashion_mnist.py:acmix_swin_micro_patch2", ["num_epochs=1"]  # the small scale


def parser_of(
    description: str, config: str = CONFIG, fields: Sequence[str] = FIELDS, metric: str = "eval_top1"
) -> argparse.ArgumentParser:
    """The command line of a table whose docstring is `description`, with the default config, its fields and metric."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=local_path, help="gets the table and the picture")
    parser.add_argument("--runs", type=local_path, help="gets a folder for each run; tables may share it")
    parser.add_argument(
        "--config",
        default=config,
        help=f"config file and :ARGUMENT, {{model}} for that of each row; default {config}",
    )
    parser.add_argument("--metric", default=metric, help="of metrics.jsonl; the last value of a run counts")
    parser.add_argument("--rows", default="", help="run only the rows with this in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    usual = f"default {' '.join(fields)} with the default config, else none" if fields else "default none"
    parser.add_argument("--set", nargs="*", metavar="FIELD=VALUE", help=f"fields of all runs, to scale them; {usual}")
    parser.set_defaults(small=(config, list(fields)))
    return parser


@one_line_errors()
def run_table(arguments: argparse.Namespace, description: str, rows: dict[str, dict[str, Any]]) -> None:
    """Runs what is not finished, writes table.csv, table.png and record.json, and prints the table.

    Args:
      arguments: from `parser_of`; a mistake in them ends the program with one line.
      description: the docstring of the table's file.
      rows: the name of each row and its config fields.
    """
    config, fields = arguments.small
    fields = arguments.set if arguments.set is not None else fields if arguments.config == config else []
    if wrong := [field for field in fields if "=" not in field]:
        raise UserError(f"--set {wrong[0]} is not FIELD=VALUE, such as num_epochs=1")
    if arguments.seeds < 1:
        raise UserError(f"--seeds={arguments.seeds} runs nothing; use at least 1")
    if not (chosen := [name for name in rows if arguments.rows in name]):
        raise UserError(f"--rows={arguments.rows} is part of no row's name; choose among: {', '.join(rows)}")
    common, folder = dict(field.split("=", 1) for field in fields), arguments.runs or arguments.out / "runs"
    runs = {
        name: [
            run_with({**common, **own, "seed": s}, arguments.config.replace("{model}", own.get("model", "")), folder)
            for s in range(arguments.seeds)
        ]
        for name, own in rows.items()
    }
    table, picture = arguments.out / "table.csv", arguments.out / "table.png"
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        run_all([run for name in chosen for run in runs[name]], arguments.parallel)
    finally:
        values = {name: _last_values(repeats, arguments.metric) for name, repeats in runs.items()}
        values = {name: metrics for name, metrics in values.items() if metrics or name in chosen}
        metric = arguments.metric.removeprefix("eval_")
        results.write_table(table, _table_rows(values, metric))
        _draw(picture, values, metric)
        environments = [workdir.environment_of(run.folder) for repeats in runs.values() for run in repeats]
        results.write_record(
            arguments.out, description, "measured here", list(filter(None, environments)), config=arguments.config,
            fields=fields, seeds=list(range(arguments.seeds)),
        )  # fmt: skip
    for name, metrics in values.items():
        print(f"{name:50} {metric} {_mean(metrics):6.2f} ± {_deviation(metrics):.2f}  ({len(metrics)} seeds)")
    print(f"{table}\n{picture}")


def _last_values(runs: list[Run], metric: str) -> list[float]:
    """The metric at the end of each finished run."""
    evaluated = [[row[metric] for row in read_metrics(run.folder) if metric in row] for run in runs if run.is_finished]
    return [values[-1] for values in evaluated if values]


def _mean(values):
    return statistics.fmean(values) if values else float("nan")


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _table_rows(values, metric):
    for name, metrics in values.items():
        yield {
            "row": name,
            f"mean_{metric}": f"{_mean(metrics):.2f}",
            "standard_deviation": f"{_deviation(metrics):.2f}",
            "seeds": len(metrics),
            f"{metric}_of_each_seed": " ".join(f"{value:.2f}" for value in metrics),
            "overlaps_with": "; ".join(_overlapping(name, values)),
        }


def _overlapping(name, values):
    """The other rows whose mean differs by at most the sum of both standard deviations."""
    deviation = {other: _deviation(metrics) for other, metrics in values.items()}
    return [
        other
        for other in values
        if other != name and abs(_mean(values[name]) - _mean(values[other])) <= deviation[name] + deviation[other]
    ]


def _draw(path, values, metric):
    """A dot for each seed, and the mean with one standard deviation to each side."""
    figure = Figure(figsize=(7, 0.6 + 0.45 * len(values)), layout="constrained")
    axes = figure.subplots()
    for height, metrics in enumerate(values.values()):
        axes.plot(metrics, [height] * len(metrics), "o", color="tab:gray", alpha=0.6)
        axes.errorbar(_mean(metrics), height, xerr=_deviation(metrics), fmt="d", color="tab:blue", capsize=4)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}; each seed, mean and standard deviation")
    figure.savefig(path, dpi=150)
