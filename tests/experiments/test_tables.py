import csv
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import repeated, sweep, table6_paths

MAIN = """
import json, pathlib, sys
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
folder, seed = pathlib.Path(flags["workdir"]), int(flags["config.seed"])
with (folder / "starts").open("a") as file: file.write("start\\n")
top1 = 50.0 + seed + (10 if flags["config.model"] == "good" else 0)
(folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_top1": top1}) + "\\n")
(folder / "config.json").write_text(json.dumps({"environment": {"devices": "1 x cpu"}}))
sys.exit(seed == FAILING)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A table of two rows, with a program that only pretends to train."""
    monkeypatch.setattr(sweep, "MAIN", tmp_path / "main.py")

    def run(failing=None):
        (tmp_path / "main.py").write_text(MAIN.replace("FAILING", str(failing)))
        monkeypatch.setattr(sys, "argv", ["table", f"--out={tmp_path}/out", "--set", "num_epochs=2"])
        repeated.run_table("", "config.py", {"a good one": {"model": "good"}, "a bad one": {"model": "bad"}})

    return run


def table(out):
    return list(csv.reader((out / "table.csv").read_text().splitlines()))


def test_mean_and_deviation_of_each_row(run, tmp_path, capsys):
    run()
    assert table(tmp_path / "out")[:3] == [
        ["row", "mean_top1", "standard_deviation", "seeds", "top1_of_each_seed"],
        ["a good one", "61.00", "1.00", "3", "60.00 61.00 62.00"],
        ["a bad one", "51.00", "1.00", "3", "50.00 51.00 52.00"],
    ]
    assert "1 x cpu" in table(tmp_path / "out")[3][0]
    assert (tmp_path / "out" / "table.png").stat().st_size > 5000
    assert "a good one" in capsys.readouterr().out


def test_what_is_done_is_not_repeated(run, tmp_path):
    with pytest.raises(SystemExit, match="2 runs failed"):
        run(failing=1)
    assert [row[3] for row in table(tmp_path / "out")[1:3]] == ["2", "2"]
    run()
    starts = {path.parent.name: len(path.read_text().splitlines()) for path in (tmp_path / "out").glob("*/starts")}
    assert {name: count for name, count in starts.items() if count > 1} == {
        "num_epochs=2,model=good,seed=1": 2,
        "num_epochs=2,model=bad,seed=1": 2,
    }


@pytest.mark.slow
def test_table_6_at_smoke_scale(tmp_path):
    command = [sys.executable, "-m", "experiments.table6_paths", f"--out={tmp_path}", "--config=configs/digits.py"]
    command += ["--seeds=1", "--set", "num_epochs=0.05", "eval_every=0"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent.parent)
    assert [row[0] for row in table(tmp_path)[1:-1]] == list(table6_paths.ROWS)
