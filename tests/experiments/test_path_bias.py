import csv
import json
import sys

import jax
import numpy as np
import pytest

from acmix_jax.checkpoint import Checkpoints
from acmix_jax.convert.state_dict import variable_shapes
from experiments import path_bias


def make_run(folder, name):
    """A workdir with a checkpoint in which the layers' alpha is 0, 1, 2, ... and beta 10."""
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes(name, 10))
    for i, layer in enumerate(sorted(name for name in variables["params"]["backbone"] if "block" in name)):
        mixer = variables["params"]["backbone"][layer]["mixer"]
        if "alpha" in mixer:
            mixer["alpha"], mixer["beta"] = np.float32(i), np.float32(10)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": name, "data": {"num_classes": 10}}))
    with Checkpoints(folder / "checkpoints", best="") as checkpoints:
        checkpoints.save_variables(7, variables)
    return str(folder)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["path_bias", *arguments])
    path_bias.main()


def test_a_table_and_a_picture_of_several_runs(tmp_path, monkeypatch):
    names = ["acmix_swin_micro_patch2", "acmix_resnet14_stem1"]
    runs = [make_run(tmp_path / name, name) for name in names]
    run(monkeypatch, *runs, f"--out={tmp_path / 'out'}")
    rows = list(csv.DictReader((tmp_path / "out" / "path_bias.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == [names[0]] * 6 + [names[1]] * 4
    assert [float(row["alpha"]) for row in rows] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert {(row["step"], row["beta"]) for row in rows} == {("7", "10.0")}
    assert (tmp_path / "out" / "path_bias.png").stat().st_size > 10_000


def test_what_is_no_run_of_acmix_is_refused(tmp_path, monkeypatch):
    plain = make_run(tmp_path / "plain", "swin_micro_patch2")
    for path, message in ((plain, "swin_micro_patch2, which has no ACmix layer"), (str(tmp_path), "neither a run nor")):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, path, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
