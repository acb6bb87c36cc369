import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from acmix_jax.tasks import create_task
from acmix_jax.training import optim
from configs import fashion_mnist
from experiments import ablation, runs, table6_paths, table7_shifts

ROOT = Path(__file__).parent.parent.parent
SMOKE = ["--config=configs/digits.py", "--seeds=1", "--set", "num_epochs=0.05"]
QUICK = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
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
ROWS = {"a good one": {"model": "good"}, "a bad one": {"model": "bad"}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A table of two rows, with a fake training program."""
    monkeypatch.setattr(runs, "MAIN", tmp_path / "main.py")

    def run(*more, failing=None, rows=ROWS):
        (tmp_path / "main.py").write_text(MAIN.replace("FAILING", str(failing)))
        monkeypatch.setattr(
            sys,
            "argv",
            ["table", f"--out={tmp_path}/out", "--config=config.py", *more]
            + ["--set", "num_epochs=2"] * ("--set" not in more),
        )
        ablation.run_table(ablation.parser_of("").parse_args(), "A table.", rows)

    return run


def table(out):
    return list(csv.reader((out / "table.csv").read_text().splitlines()))


def starts(runs):
    return {path.parent.name: len(path.read_text().splitlines()) for path in runs.glob("*/starts")}


def test_mean_and_deviation_of_each_row(run, tmp_path, capsys):
    run()
    assert table(tmp_path / "out") == [
        ["row", "mean_top1", "standard_deviation", "seeds", "top1_of_each_seed", "overlaps_with"],
        ["a good one", "61.00", "1.00", "3", "60.00 61.00 62.00", ""],
        ["a bad one", "51.00", "1.00", "3", "50.00 51.00 52.00", ""],
    ]
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (record["title"], record["seeds"]) == ("A table.", [0, 1, 2])
    assert record["environments"] == [{"devices": "1 x cpu"}]
    assert (tmp_path / "out" / "table.png").stat().st_size > 5000
    assert "a good one" in capsys.readouterr().out


def test_what_is_done_is_not_repeated(run, tmp_path):
    with pytest.raises(SystemExit, match="2 runs failed"):
        run(failing=1)
    assert [row[3] for row in table(tmp_path / "out")[1:]] == ["2", "2"]
    run()
    assert {name: count for name, count in starts(tmp_path / "out" / "runs").items() if count > 1} == {
        "num_epochs=2,model=good,seed=1": 2,
        "num_epochs=2,model=bad,seed=1": 2,
    }


def test_tables_share_the_runs_that_they_have_in_common(run, tmp_path):
    run(f"--runs={tmp_path / 'shared'}")
    run(f"--runs={tmp_path / 'shared'}", rows={"the same": {"model": "good"}, "another": {"model": "other"}})
    assert set(starts(tmp_path / "shared").values()) == {1}
    assert table(tmp_path / "out")[1][:5] == ["the same", "61.00", "1.00", "3", "60.00 61.00 62.00"]


def test_another_config_in_the_same_folder_is_refused(run, tmp_path):
    run()
    with pytest.raises(SystemExit, match="seed=0 is a run of --config=config.py .*; choose another folder"):
        run("--config=other.py")


def test_intervals_that_overlap_are_said_to(run, tmp_path, monkeypatch):
    run(rows={"one": {"model": "bad"}, "other": {"model": "as bad"}, "better": {"model": "good"}})
    assert [row[-1] for row in table(tmp_path / "out")[1:]] == ["other", "one", ""]


def test_some_rows_only(run, tmp_path):
    run("--rows=good")
    assert [row[0] for row in table(tmp_path / "out")[1:]] == ["a good one"]
    with pytest.raises(SystemExit, match="--rows=ugly is part of no row's name; choose among: a good one, a bad one"):
        run("--rows=ugly")
    run("--rows=bad")  # the others stay
    assert [row[0] for row in table(tmp_path / "out")[1:]] == ["a good one", "a bad one"]


def test_fields_must_have_values(run):
    with pytest.raises(SystemExit, match="--set seed is not FIELD=VALUE"):
        run("--set", "seed")
    with pytest.raises(SystemExit, match="--seeds=0 runs nothing"):
        run("--seeds=0")


def test_the_rows_of_tables_6_and_7_share_the_paper_s_operator():
    both = "alpha attention + beta convolution", "learned from shifts, N groups"
    assert table6_paths.ROWS[both[0]] == table7_shifts.ROWS[both[1]] == {}


@pytest.mark.parametrize("fields", [*table6_paths.ROWS.values(), *list(table7_shifts.ROWS.values())[:-1]], ids=str)
def test_every_row_is_a_config_that_can_be_trained(fields):
    """Traces the network and the optimizer; the last row of table 7 is that of table 6."""
    config = fashion_mnist.get_config("acmix_swin_micro_patch2")
    config.update_from_flattened_dict(fields)
    task = create_task(config)
    images = {"image": np.zeros((2, 28, 28, 1), np.uint8)}
    params = jax.eval_shape(lambda: task.init(jax.random.key(0), images))["params"]
    jax.eval_shape(optim.make_optimizer(config.optimizer, lambda step: 0.1).init, params)


def test_the_commands_share_the_run_of_their_common_row(run, tmp_path, monkeypatch):
    run()  # writes the fake program
    monkeypatch.setattr(table7_shifts, "measure", fake_speed)
    for module, row in ((table6_paths, "alpha attention + beta"), (table7_shifts, "learned from shifts, N groups")):
        out = tmp_path / module.__name__
        flags = [f"--out={out}", f"--runs={tmp_path / 'shared'}", "--config=configs/digits.py", "--seeds=1"]
        monkeypatch.setattr(sys, "argv", ["table", *flags, "--set", "model=good", f"--rows={row}"])
        module.main()
        (line,) = table(out)[1:]
        assert line[:3] == [next(name for name in module.ROWS if row in name), "60.00", "nan"]
    assert list(starts(tmp_path / "shared").values()) == [1]
    assert (out / "speed.csv").exists()


@pytest.mark.slow
def test_both_tables_at_smoke_scale(tmp_path):
    """The commands themselves, with real training of the row that they share, which the second one does not repeat."""
    speed = ["--speed-image-size=28", "--speed-rounds=1"]
    for name, row, more in (
        ("table6_paths", "alpha attention + beta convolution", []),
        ("table7_shifts", "learned from shifts, N groups", speed),
    ):
        folders = [f"--out={tmp_path / name}", f"--runs={tmp_path / 'runs'}"]
        command = [sys.executable, "-m", f"experiments.{name}", *folders, *SMOKE, f"--rows={row}", *more]
        subprocess.run(command, check=True, cwd=ROOT, env=QUICK)
        (line,) = table(tmp_path / name)[1:]
        assert line[0] == row
        assert 0 < float(line[1]) <= 100
    assert len(list((tmp_path / "runs").glob("*/metrics.jsonl"))) == 1
    speed = list(csv.DictReader((tmp_path / "table7_shifts" / "speed.csv").read_text().splitlines()))
    assert [line["implementation"] for line in speed[::2]] == list(table7_shifts.IMPLEMENTATIONS)
    assert all(float(line["ms"]) > 0 for line in speed)


def fake_speed(image_size, batch, rounds):
    passes = ("forward", "forward+backward")
    return {(name, way): np.arange(1.0, 4.0) for name in table7_shifts.IMPLEMENTATIONS for way in passes}


def test_a_speed_is_measured_once_for_each_size(tmp_path, monkeypatch):
    measured = []

    def measure(image_size, batch, rounds):
        measured.append(image_size)
        return fake_speed(image_size, batch, rounds)

    monkeypatch.setattr(table7_shifts, "measure", measure)
    for size in (28, 28, 224):
        table7_shifts.measure_speed(
            argparse.Namespace(out=tmp_path, speed_image_size=size, speed_batch=1, speed_rounds=3)
        )
    assert measured == [28, 224]
    assert {row["ms"] for row in csv.DictReader((tmp_path / "speed.csv").read_text().splitlines())} == {"2"}
