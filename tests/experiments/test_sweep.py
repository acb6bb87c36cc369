import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import runs, sweep

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
def get_config(): ...
def sweep():
    for rate in (0.1, 0.2, 0.4):
        yield {"optimizer.learning_rate": rate, "model": "a" if rate > 0.3 else "b"}
"""
MAIN = """
import json, pathlib, sys, time
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
folder, rate = pathlib.Path(flags["workdir"]), float(flags["config.optimizer.learning_rate"])
with (folder / "starts").open("a") as file: file.write("start\\n")
time.sleep(float(flags["config"].partition(":")[2] or 0))
row = {"step": 1, "eval_top1": 100 * rate, "alpha/stage1_block1": rate, "beta/stage1_block1": 0.5}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
sys.exit(rate == FAILING)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A sweep of three runs of a fake training program."""

    def with_failing(rate=None):
        (tmp_path / "main.py").write_text(MAIN.replace("FAILING", str(rate)))
        (tmp_path / "config.py").write_text(CONFIG)
        monkeypatch.setattr(runs, "MAIN", tmp_path / "main.py")

        def run(*flags, pause=0):
            config = f"{tmp_path}/config.py" + (f":{pause}" if pause else "")
            monkeypatch.setattr(sys, "argv", ["sweep", f"--config={config}", f"--workdir={tmp_path}/out", *flags])
            sweep.main()
            return tmp_path / "out"

        return run

    return with_failing


def table(out):
    return list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))


def starts(out):
    return [len(path.read_text().splitlines()) for path in sorted(out.glob("*/starts"))]


@pytest.mark.parametrize("parallel", [1, 3])
def test_every_run_is_done_once_and_collated(make, parallel):
    run = make()
    out = run(f"--parallel={parallel}")
    rows = table(out)
    assert [(float(row["optimizer.learning_rate"]), row["model"]) for row in rows] == [
        (0.1, "b"),
        (0.2, "b"),
        (0.4, "a"),
    ]
    assert [float(row["eval_top1"]) for row in rows] == [10, 20, 40]
    assert [float(row["alpha/stage1_block1"]) for row in rows] == [0.1, 0.2, 0.4]
    assert {row["finished"] for row in rows} == {"True"}
    assert (out / "sweep.png").stat().st_size > 5000
    run()
    assert starts(out) == [1, 1, 1]


def test_a_failed_run_stops_no_other_and_is_repeated(make, tmp_path):
    with pytest.raises(SystemExit, match=r"1 runs failed; see .*learning_rate=0.2,model=b/log.txt"):
        make(failing := 0.2)("--parallel=1")
    out = tmp_path / "out"
    assert [row["finished"] for row in table(out)] == ["True", "False", "True"]
    make()()
    assert starts(out) == [1, 2, 1], failing
    assert {row["finished"] for row in table(out)} == {"True"}


def test_printed_commands_are_those_of_unfinished_runs(make, capsys, tmp_path):
    with pytest.raises(SystemExit):
        make(0.2)()
    capsys.readouterr()
    make()("--print-commands")
    (command,) = capsys.readouterr().out.splitlines()
    assert "--config.optimizer.learning_rate=0.2 --config.model=b" in command
    subprocess.run(command, shell=True, check=True)
    make()()
    assert starts(tmp_path / "out") == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "has no function sweep"), ("def sweep(): yield from [{'seed': 1}] * 2", "seed=1 twice; remove one")],
)
def test_mistakes_end_with_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "config.py").write_text(text)
    monkeypatch.setattr(sys, "argv", ["sweep", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/out"])
    with pytest.raises(SystemExit, match=message):
        sweep.main()
    assert not (tmp_path / "out").exists()


def test_runs_may_set_different_fields(make, tmp_path):
    run = make()
    text = (
        "def sweep(): yield from ({'optimizer.learning_rate': 0.1}, {'optimizer.learning_rate': 0.2, 'model': 'a/b'})"
    )
    (tmp_path / "config.py").write_text(text)
    rows = table(run())
    assert [row["folder"] for row in rows] == ["learning_rate=0.1", "learning_rate=0.2,model=a_b"]
    assert [row["model"] for row in rows] == ["", "a/b"]


@pytest.mark.slow
def test_six_runs_on_digits_survive_two_kills(tmp_path):
    command = [
        sys.executable, "-m", "experiments.sweep", "--config=configs/sweep_digits.py", f"--workdir={tmp_path}",
        "--parallel=2",
    ]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    for finished in (1, 3):
        program = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        while program.poll() is None and len(list(tmp_path.glob("*/finished"))) < finished:
            time.sleep(0.05)
        assert program.poll() is None
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "6 runs, " in done.stderr
    rows = table(tmp_path)
    assert len(rows) == 6
    for row, folder in zip(rows, sorted(tmp_path.glob("window_size=*")), strict=True):
        assert row["finished"] == "True"
        log = (folder / "log.txt").read_text()
        assert log.count(" evaluation: ") == 1, log  # the end of training was reached once
        assert int(row["step"]) == 90
