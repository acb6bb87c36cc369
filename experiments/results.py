"""The files of an experiment: tables that grow row by row, and record.json, which says what produced them."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from acmix_jax.errors import UserError
from acmix_jax.run import environment


def write(
    folder: Path, description: str, origin: str, environments: list[dict[str, Any]] | None = None, **facts: Any
) -> None:
    """Writes record.json; facts, commands and environments join those that the folder's record has already.

    Args:
      folder: of the experiment's tables and pictures.
      description: the docstring of the experiment's file; its first line becomes the title.
      origin: where the numbers come from: "measured here", "paper", "derived", or which of them do.
      environments: what was measured on, as from `environment.describe`, where that is not this program.
      **facts: to be told besides, such as seeds.
    """
    path = folder / "record.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    command = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    title, _, text = description.strip().partition("\n")
    record = before | {
        "title": title,
        "text": text.strip(),
        "origin": origin,
        "commands": _joined(before.get("commands", []), [command]),
        **facts,
        "environments": _joined(before.get("environments", []), environments or [environment.describe()]),
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def _joined(before, new):
    """Both, each of them once; of environments, without what each run has for itself."""
    own = ("command", "training_images")
    new = [{k: v for k, v in x.items() if k not in own} if isinstance(x, dict) else x for x in new]
    return before + [x for i, x in enumerate(new) if x not in before and x not in new[:i]]


class Table:
    """A CSV file that gets a row as soon as it is found; the rows that it had before stay."""

    def __init__(self, path: Path, columns: list[str]):
        """Opens or begins the file; raises a UserError if one is there that has other columns."""
        self._path, self._columns, self.rows = path, columns, []
        text = path.read_text() if path.exists() else ""
        kept = text[: text.rfind("\n") + 1]  # a program that was killed may leave half a row
        if kept and kept.splitlines() and next(csv.reader(kept.splitlines())) != columns:
            raise UserError(f"{path} has other columns; it is of another version, choose another --out")
        path.write_text(kept or ",".join(columns) + "\n")
        self.rows = list(csv.DictReader(kept.splitlines()))

    def having(self, **values: Any) -> list[dict[str, str]]:
        """The rows with these values."""
        return [row for row in self.rows if all(row[name] == str(value) for name, value in values.items())]

    def add(self, *row: Any) -> None:
        """Appends a row; numbers keep four digits, None is empty."""
        row = [f"{x:.4g}" if isinstance(x, float) else "" if x is None else str(x) for x in row]
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        self.rows.append(dict(zip(self._columns, row, strict=True)))
