"""The writers of tables and records, and the records in docs/results."""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from acmix_jax.errors import UserError
from experiments import results

COMMITTED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/"))


class Row(NamedTuple):
    name: str
    pass_: str
    ms: float | None


def test_a_table_has_four_digits_and_empty_cells(tmp_path):
    rows = [Row("one", "train", 1234.567), Row("other", "forward", None)]
    results.write_table(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text() == "name,pass,ms\none,train,1235\nother,forward,\n"


def test_a_table_of_dicts_has_all_their_columns(tmp_path):
    results.write_table(tmp_path / "a.csv", [{"x": 0.123456}, {"y": True, "x": 1}], digits=None)
    assert (tmp_path / "a.csv").read_text() == "x,y\n0.123456,\n1,True\n"


def test_half_a_row_of_a_killed_program_is_measured_again(tmp_path):
    columns = ["name", "ms"]
    results.Table(tmp_path / "a.csv", columns).add({"name": "one", "ms": 1.0})
    with (tmp_path / "a.csv").open("a") as file:
        file.write("two,0.")
    again = results.Table(tmp_path / "a.csv", columns)
    assert again.having(name="one") == [{"name": "one", "ms": "1"}]
    assert not again.having(name="two")
    again.add({"name": "two", "ms": 2.5})
    assert (tmp_path / "a.csv").read_text() == "name,ms\none,1\ntwo,2.5\n"


def test_a_table_of_another_version_is_refused(tmp_path):
    results.Table(tmp_path / "a.csv", ["name", "ms"])
    with pytest.raises(UserError, match="has other columns"):
        results.Table(tmp_path / "a.csv", ["name", "seconds"])


def test_a_value_without_a_column_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no column for .*seconds"):
        results.Table(tmp_path / "a.csv", ["name"]).add({"name": "one", "seconds": 1})


def test_a_record_says_what_produced_a_table(tmp_path, monkeypatch):
    for out in ("a folder", "other", "other"):
        monkeypatch.setattr(sys, "argv", ["table9.py", f"--out={out}"])
        results.write_record(tmp_path, "A title.\n\nMore text.", "measured here", seeds=[0, 1])
    record = json.loads((tmp_path / "record.json").read_text())
    (where,) = record.pop("environments")  # without the command, which differs
    assert where.keys() == {"versions", "commit", "devices", "machine", "processes"}
    assert record == {
        "title": "A title.", "text": "More text.", "origin": "measured here", "seeds": [0, 1],
        "commands": ["python -m experiments.table9 '--out=a folder'", "python -m experiments.table9 --out=other"],
    }  # fmt: skip


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_results_say_what_produced_them(folder):
    record = json.loads((folder / "record.json").read_text())
    is_speed = folder.name.endswith("_speed")  # older than their records, and without pictures
    outputs = [f"--out=docs/results/{folder.name}", f"--out=runs/{folder.name}"][: 1 + is_speed]
    assert record["commands"]
    assert all(any(out in command for out in outputs) for command in record["commands"])
    commit = "[0-9a-f]{40}|not recorded" if is_speed else "[0-9a-f]{40}"  # none "-dirty"
    assert all(re.fullmatch(commit, where["commit"]) for where in record["environments"])
    assert all(where["machine"] for where in record["environments"])
    assert list(folder.glob("*.csv"))
    assert list(folder.glob("*.png")) or is_speed
