"""Searches for the best settings with Optuna, and continues where it was stopped.

python -m experiments.search --config=configs/sweep_digits.py --workdir=runs/search --trials=20 [--parallel=N]

The config file defines `search(trial)`, which returns {"field": value} with values such as
trial.suggest_float("rate", 1e-3, 1e-1, log=True). Each trial is a run as in experiments/sweep.py, in a folder of its
own; the study is kept in search.log, a journal that optuna-dashboard opens. An interrupted trial is repeated with the
same settings, and its run resumes. Writes search.csv and search.png. Needs pip install optuna.
"""

import argparse
import sys
import threading
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from acmix_jax.config import local_path
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.run.metrics import read_metrics
from experiments import runs, sweep


class _Failed(Exception):
    """The run of a trial did not finish."""


def open_study(workdir: Path) -> optuna.Study:
    """The study in this folder; trials that were interrupted by a kill are queued again."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(workdir / "search.log")))
    study = optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def search(config: str, workdir: Path, trials: int, parallel: int, metric: str) -> list[runs.Run]:
    """Runs trials until `trials` of them are complete or the rest has failed; returns the complete runs.

    Raises:
      UserError: the config has no `search`, runs failed, a run does not log `metric`, or a signal stopped the program.
    """
    settings_of = sweep.function_of(config, "search")
    workdir.mkdir(parents=True, exist_ok=True)
    study = open_study(workdir)
    started, stopped, failed = set(), threading.Event(), []

    def objective(trial):
        run = runs.run_with(settings_of(trial), config, workdir)
        trial.set_user_attr("settings", run.settings)
        if not stopped.is_set() and runs.execute(run, started):
            values = [row[metric] for row in read_metrics(run.folder) if metric in row]
            if not values:
                raise UserError(f"{run.folder} logs no --metric={metric}; choose one of its metrics.jsonl")
            print(f"trial {trial.number}: {metric} {values[-1]:.4g}, {run.folder}", file=sys.stderr)
            return values[-1]
        if stopped.is_set():
            study.enqueue_trial(trial.params)
            study.stop()
        else:
            failed.append(run)
        raise _Failed

    left = trials - len(study.get_trials(states=[TrialState.COMPLETE]))
    with runs.stopping(started, stopped):
        if left > 0:
            study.optimize(objective, left, n_jobs=parallel, catch=(_Failed,))
    runs.check_ended(stopped, failed)
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return [runs.run_with(trial.user_attrs["settings"], config, workdir) for trial in complete]


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file with a function search(trial), and :ARGUMENT")
    parser.add_argument("--workdir", required=True, type=local_path, help="gets a folder for each run")
    parser.add_argument("--trials", type=int, default=20, help="to complete in all")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--metric", default="eval_top1", help="of metrics.jsonl, to make as large as possible")
    arguments = parser.parse_args()
    metric, folder = arguments.metric, arguments.workdir
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    complete = search(arguments.config, folder, arguments.trials, arguments.parallel, metric)
    complete = list({run.folder: run for run in complete}.values())  # Optuna may suggest the same settings twice
    rows = sweep.summarize(complete, metric, folder / "search")
    best = max(rows, key=lambda row: row[metric])
    print(f"best: {metric} {best[metric]:.4g}, {folder / best['folder']}")
    print(f"{folder / 'search.csv'}\n{folder / 'search.png'}")


if __name__ == "__main__":
    main()
