import csv
import sys

import pytest

from experiments import runs, search

CONFIG = """
def get_config(): ...
def search(trial):
    return {"optimizer.learning_rate": trial.suggest_float("rate", 0.1, 0.9)}
"""
MAIN = """
import json, pathlib, sys
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
folder, rate = pathlib.Path(flags["workdir"]), float(flags["config.optimizer.learning_rate"])
with (folder / "starts").open("a") as file: file.write("start\\n")
(folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_top1": 100 * rate}) + "\\n")
sys.exit(FAILING)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A search with a fake training program."""
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.setattr(runs, "MAIN", tmp_path / "main.py")

    def run(trials, failing=0):
        (tmp_path / "main.py").write_text(MAIN.replace("FAILING", str(failing)))
        flags = [f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/out", f"--trials={trials}"]
        monkeypatch.setattr(sys, "argv", ["search", *flags])
        search.main()
        return list(csv.DictReader((tmp_path / "out" / "search.csv").read_text().splitlines()))

    return run


def test_a_search_continues_and_repeats_interrupted_trials(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    interrupted = search.open_study(tmp_path / "out").ask()  # as of a killed process
    rate = interrupted.suggest_float("rate", 0.1, 0.9)
    rows = run(2)
    assert len(rows) == 2
    assert float(rows[0]["optimizer.learning_rate"]) == rate
    rows = run(5)
    assert len(rows) == 5
    assert [row["finished"] for row in rows] == ["True"] * 5
    best = max(float(row["eval_top1"]) for row in rows)
    assert f"best: eval_top1 {best:.4g}, " in capsys.readouterr().out
    assert (tmp_path / "out" / "search.png").stat().st_size > 5000
    assert run(5) == rows
    assert [path.read_text() for path in (tmp_path / "out").glob("*/starts")] == ["start\n"] * 5


def test_failures_are_named_and_do_not_count(run):
    with pytest.raises(SystemExit, match=r"error: 2 runs failed; see .*learning_rate=0.*/log.txt"):
        run(2, failing=1)
    assert len(run(2)) == 2
