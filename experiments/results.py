"""The files of an experiment: CSV tables and record.json, the provenance of their numbers."""

import csv
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from acmix_jax.errors import UserError
from acmix_jax.run import environment


def write_record(
    folder: Path, description: str, origin: str, environments: list[dict[str, Any]] | None = None, **facts: Any
) -> None:
    """Writes record.json; commands and environments are added to those of an existing record.

    Args:
      folder: the experiment's output folder.
      description: the docstring of the experiment's file; its first line becomes the title.
      origin: the source of the numbers: "measured here", "paper", "derived", or a list of which is which.
      environments: the environments of the measurements, as from `environment.describe`; default: this process.
      **facts: further entries, such as seeds.
    """
    path = folder / "record.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    command = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    title, _, text = description.strip().partition("\n")
    record = before | {
        "title": title,
        "text": text.strip(),
        "origin": origin,
        "commands": _merged(before.get("commands", []), [command]),
        **facts,
        "environments": _merged(before.get("environments", []), environments or [environment.describe()]),
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def _merged(before, new):
    """Both lists without duplicates; entries that differ from run to run are dropped from environments."""
    per_run = ("command", "training_images")
    new = [{k: v for k, v in x.items() if k not in per_run} if isinstance(x, dict) else x for x in new]
    return before + [x for i, x in enumerate(new) if x not in before and x not in new[:i]]


def write_table(path: Path, rows: Iterable[Any], columns: Iterable[str] = (), digits: int | None = 4) -> None:
    """Writes a whole CSV file.

    Args:
      path: the file; replaced if it exists.
      rows: dicts or NamedTuples; a trailing underscore of a name (`pass_`) is dropped.
      columns: default: all names in the rows, in the order in which they first appear.
      digits: significant digits of floats; None writes all of them. A value that is None or missing is empty.
    """
    rows = [_as_dict(row) for row in rows]
    columns = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(_cells(row, columns, digits) for row in rows)


class Table:
    """A CSV file that grows by one row at a time; rows of an earlier, interrupted run are kept."""

    def __init__(self, path: Path, columns: Iterable[str]):
        """Opens or creates the file; raises a UserError if it exists with other columns."""
        self._path, self._columns = path, list(columns)
        text = path.read_text() if path.exists() else ""
        kept = text[: text.rfind("\n") + 1]  # a killed program may leave half a row
        if kept and next(csv.reader(kept.splitlines())) != self._columns:
            raise UserError(f"{path} has other columns and is of another version; choose another --out")
        path.write_text(kept or ",".join(self._columns) + "\n")
        self.rows = list(csv.DictReader(kept.splitlines()))

    def having(self, **values: Any) -> list[dict[str, str]]:
        """The rows with these values."""
        return [row for row in self.rows if all(row[name] == str(value) for name, value in values.items())]

    def add(self, row: Any) -> None:
        """Appends a row as `write_table` does, with four digits."""
        cells = _cells(_as_dict(row), self._columns, digits=4)
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)
        self.rows.append(dict(zip(self._columns, cells, strict=True)))


def _as_dict(row):
    return row if isinstance(row, Mapping) else {name.rstrip("_"): value for name, value in row._asdict().items()}


def _cells(row, columns, digits):
    if unknown := row.keys() - set(columns):
        raise ValueError(f"no column for {sorted(unknown)}")
    return [_cell(row.get(name), digits) for name in columns]


def _cell(value, digits):
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) and digits else str(value)
