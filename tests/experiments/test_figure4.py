import csv
import json
import sys

import pytest

from acmix_jax.analysis.complexity import Complexity
from configs import digits
from experiments import figure4_accuracy


def make_run(folder, top1):
    folder.mkdir()
    config = digits.get_config().to_dict() | {"num_epochs": 0.01, "environment": {"training_images": 1437}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_top1": top1}) + "\n")
    return folder


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Returns a function that runs the command with two runs; it returns the rows of the table by model."""

    def run():
        monkeypatch.setattr(figure4_accuracy, "ACCURACY", {"Swin": {"swin_tiny": 81.3, "acmix_swin_tiny": 81.9}})
        runs = [make_run(tmp_path / f"run{i}", top1) for i, top1 in enumerate((97.0, 98.0))]
        monkeypatch.setattr(sys, "argv", ["figure4_accuracy.py", f"--out={tmp_path / 'out'}", *map(str, runs)])
        figure4_accuracy.main()
        table = (tmp_path / "out" / "figure4.csv").read_text()
        return {row["model"]: row for row in csv.DictReader(table.splitlines())}

    return run


def test_accuracies_say_where_they_come_from(rows, tmp_path, monkeypatch):
    cost = Complexity({"stage1": 28_650_000}, {"stage1": 4_645_400_000})
    monkeypatch.setattr(figure4_accuracy, "complexity", lambda *_, **__: cost)
    table = rows()
    acmix = table["acmix_swin_tiny"]
    assert (acmix["top1"], acmix["top1_origin"], acmix["gmacs"], acmix["gmacs_origin"]) == (
        "81.9", "its paper", "4.645", "derived",
    )  # fmt: skip
    assert table["CvT"]["gmacs_origin"] == "paper's figure"
    assert (table["acmix_resnet14_stem1"]["top1_origin"], table["acmix_resnet14_stem1"]["panel"]) == (
        "measured here", "digits",
    )  # fmt: skip
    assert (tmp_path / "out" / "figure4.png").stat().st_size > 20_000
    assert (tmp_path / "out" / "record.json").exists()


@pytest.mark.slow
def test_multiply_adds_are_counted(rows):
    table = rows()
    assert table["acmix_swin_tiny"]["gmacs"] == "4.645"
    assert 0 < float(table["acmix_resnet14_stem1"]["gmacs"]) < 0.1


def test_a_run_without_accuracy_is_refused(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", 90.0)
    (folder / "metrics.jsonl").write_text("")
    monkeypatch.setattr(sys, "argv", ["figure4_accuracy.py", f"--out={tmp_path / 'out'}", str(folder)])
    with pytest.raises(SystemExit, match="is no finished run"):
        figure4_accuracy.main()
