import csv
import subprocess
import sys
from types import SimpleNamespace

import pytest

from acmix_jax.benchmark import devices
from acmix_jax.errors import UserError
from experiments import kernel_cycles
from experiments.kernel_cycles import LAYERS


def test_layers_are_those_of_resnet50():
    small, large = list(LAYERS)[:7], list(LAYERS)[7:]
    assert small == ["64@56", "128@56s2", "128@28", "256@28s2", "256@14", "512@14s2", "512@7"]
    assert large[0::2] == ["64@200x336", "128@100x168", "256@50x84", "512@25x42"]
    assert large[1::2] == ["128@200x336s2", "256@100x168s2", "512@50x84s2"]


def test_a_compiler_that_fails_is_told_with_its_last_line(monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="a traceback\nRan out of memory in memory space vmem\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"64@56 forward ended with code 1: Ran out of memory in memory space vmem"):
        kernel_cycles.count(LAYERS["64@56"], "forward", "bfloat16")


def test_a_kernel_in_the_table_is_not_compiled_again(tmp_path, monkeypatch, capsys):
    counted = []

    def count(layer, kernel, dtype):
        counted.append((str(layer), kernel))
        row = {"layer": layer, "kernel": kernel, "dtype": dtype, "compiler": kernel_cycles.compiler_of("v5e:1x1")}
        return (
            dict.fromkeys(kernel_cycles.COLUMNS, 1)
            | {"cycles": None, "ms": None if kernel == "backward" else 0.5}
            | row
        )

    monkeypatch.setattr(devices, "check_target", lambda target: None)
    monkeypatch.setattr(kernel_cycles, "count", count)
    for layers in ("512@7", "512@7,64@56"):
        monkeypatch.setattr(sys, "argv", ["kernel_cycles.py", f"--out={tmp_path}", f"--layers={layers}"])
        kernel_cycles.main()
    assert counted == [("512@7", "forward"), ("512@7", "backward"), ("64@56", "forward"), ("64@56", "backward")]
    assert "4 of 4: 64@56 backward: cycles unknown, 1 spills" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "kernel_cycles.csv").read_text().splitlines()))
    assert [row["ms"] for row in rows] == ["0.5", "", "0.5", ""]
    assert (tmp_path / "kernel_cycles.png").stat().st_size > 10_000
    assert (tmp_path / "record.json").exists()
