import errno
import json
import sys
from types import SimpleNamespace

import pytest

from acmix_jax.errors import UserError
from acmix_jax.run.metrics import MetricsWriter, StepLog, read_metrics
from configs import digits


def test_lines_after_the_resumed_step_and_incomplete_lines_are_dropped(tmp_path):
    config = digits.get_config()
    with MetricsWriter(tmp_path, 0, config) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsWriter(tmp_path, 2, config) as writer:
        writer.write(3, {"loss": 30.0})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 30.0}]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def full(row):
        raise OSError(errno.ENOSPC, "No space left on device")

    with StepLog(tmp_path / "log", 0) as log:
        monkeypatch.setattr(json, "dumps", full)  # as the write after it would
        with pytest.raises(UserError, match=r"cannot write .*log \(No space left on device\); free some space"):
            log.write(1, {"loss": 1.0})


def test_weights_and_biases_gets_one_run_for_each_workdir(tmp_path, monkeypatch):
    started, logged = [], []
    run = SimpleNamespace(log=lambda scalars, step: logged.append((step, scalars)), finish=lambda: logged.append("end"))
    wandb = SimpleNamespace(init=lambda **fields: started.append(fields) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = digits.get_config()
    config.wandb_project = "acmix"
    for start in (0, 1):
        with MetricsWriter(tmp_path, start, config) as writer:
            writer.write(start + 1, {"loss": 2.0})
    assert started[0] == started[1]
    assert started[0]["project"] == "acmix"
    assert started[0]["resume"] == "allow"
    assert started[0]["config"]["model"] == config.model
    assert logged == [(1, {"loss": 2.0}), "end", (2, {"loss": 2.0}), "end"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb_project=acmix needs wandb: pip install wandb"):
        MetricsWriter(tmp_path, 0, config)
