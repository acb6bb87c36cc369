import csv
import sys

import numpy as np
import pytest

from acmix_jax.benchmark.timing import Program
from experiments import table5_inference

FORMS = ("as trained", "folded")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command at smoke scale; returns the rows of the table."""

    def run(batches):
        command = [f"--out={tmp_path}", "--networks=resnet14_stem1", "--img-size=32", "--rounds=1"]
        monkeypatch.setattr(sys, "argv", ["table5_inference.py", *command, f"--batches={batches}"])
        table5_inference.main()
        return list(csv.DictReader((tmp_path / "inference.csv").read_text().splitlines()))

    return run


def check_rows(rows):
    assert [(row["model"], row["form"], row["batch"]) for row in rows] == [
        (name, form, batch) for batch in "12" for name in ("resnet14_stem1", "acmix_resnet14_stem1") for form in FORMS
    ]
    assert all(float(row["samples_per_sec"]) > 0 for row in rows)


def test_inference_continues_where_it_stopped(run, tmp_path, monkeypatch, capsys):
    def programs(plain, images, dtype):
        return {(name, form): Program(lambda: None) for name in (plain, f"acmix_{plain}") for form in FORMS}

    monkeypatch.setattr(table5_inference, "programs", programs)
    monkeypatch.setattr(table5_inference, "in_turns", lambda programs, _: {key: np.array([2.0]) for key in programs})
    run("1")
    rows = run("1,2")
    check_rows(rows)
    assert [row["samples_per_sec"] for row in rows] == ["500"] * 4 + ["1000"] * 4
    assert capsys.readouterr().out.count("batch   1") == 4
    assert (tmp_path / "inference.png").stat().st_size > 20_000
    assert (tmp_path / "record.json").exists()


@pytest.mark.slow
def test_networks_are_timed(run):
    check_rows(run("1,2"))
