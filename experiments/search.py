"""Searches for the best settings with Optuna, and goes on where it was stopped.

python -m experiments.search --config=configs/sweep_digits.py --workdir=runs/search --trials=20 [--parallel=N]

The config file defines `search(trial)`, which gives {"field": value} with values such as
trial.suggest_float("rate", 1e-3, 1e-1, log=True). Every trial is a run as in experiments/sweep.py, in a folder of its
own; the study is kept in search.log, a journal that optuna-dashboard opens. A trial that was cut off is tried again
with the same settings, and its run continues. Writes search.csv and search.png. Needs pip install optuna.
"""

import argparse
import sys
import threading
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from acmix_jax.errors import UserError
from acmix_jax.run.metrics import read_metrics
from experiments import sweep


class _Failed(Exception):
    """The run of a trial did not come to its end."""


def open_study(workdir: Path) -> optuna.Study:
    """The study in this folder; what a kill cut off waits in it to be tried again."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(workdir / "search.log")))
    study = optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def search(config: str, workdir: Path, trials: int, parallel: int, metric: str) -> list[sweep.Run]:
    """Runs until so many trials are complete, or nothing but failures came of the rest; the complete ones.

    Raises:
      UserError: the config has no `search`, runs failed, or a signal stopped it.
    """
    settings_of = sweep.function_of(config, "search")
    workdir.mkdir(parents=True, exist_ok=True)
    study = open_study(workdir)
    started, stopped, failed = set(), threading.Event(), []

    def objective(trial):
        run = sweep.run_with(settings_of(trial), config, workdir)
        trial.set_user_attr("settings", run.settings)
        if not stopped.is_set() and sweep.execute(run, started):
            values = [row[metric] for row in read_metrics(run.folder) if metric in row]
            if not values:
                raise UserError(f"{run.folder} logs no --metric={metric}; choose one of its metrics.jsonl")
            value = values[-1]
            print(f"trial {trial.number}: {metric} {value:.4g}, {run.folder}", file=sys.stderr)
            return value
        if stopped.is_set():
            study.enqueue_trial(trial.params)
            study.stop()
        else:
            failed.append(run)
        raise _Failed

    left = trials - len(study.get_trials(states=[TrialState.COMPLETE]))
    with sweep.stopping(started, stopped):
        if left > 0:
            study.optimize(objective, left, n_jobs=parallel, catch=(_Failed,))
    sweep.check_ended(stopped, failed)
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return [sweep.run_with(trial.user_attrs["settings"], config, workdir) for trial in complete]


def main() -> None:
    """Reads the flags; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file with a function search(trial), and :ARGUMENT")
    parser.add_argument("--workdir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument("--trials", type=int, default=20, help="to complete in all")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--metric", default="eval_top1", help="of metrics.jsonl, to make as large as possible")
    flags = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        runs = search(flags.config, flags.workdir, flags.trials, flags.parallel, flags.metric)
        runs = list({run.folder: run for run in runs}.values())  # Optuna may ask for the same twice
        rows = sweep.collate(runs, flags.workdir / "search.csv", flags.metric)
        fields = list(dict.fromkeys(field for run in runs for field in run.settings))
        sweep.draw(rows, fields, flags.metric, flags.workdir / "search.png")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    best = max(rows, key=lambda row: row[flags.metric])
    print(f"best: {flags.metric} {best[flags.metric]:.4g}, {flags.workdir / best['folder']}")
    print(f"{flags.workdir / 'search.csv'}\n{flags.workdir / 'search.png'}")


if __name__ == "__main__":
    main()
