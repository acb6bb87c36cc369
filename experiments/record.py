"""The files of an experiment: tables that grow row by row, and record.json, which says what produced them."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from acmix_jax import environment


def write(folder: Path, description: str, origin: str, **facts: Any) -> None:
    """Writes record.json.

    Args:
      folder: of the experiment's tables and pictures.
      description: the docstring of the experiment's file; its first line becomes the title.
      origin: where the numbers come from: "measured here", "paper", "derived" or several of them.
      **facts: to be told besides, such as seeds; "environment" where it is not that of this program.
    """
    name = Path(sys.argv[0]).stem
    title, _, text = description.strip().partition("\n")
    record = {
        "title": title,
        "text": text.strip(),
        "origin": origin,
        "command": shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:]]),
        "environment": environment.describe(),
    }
    (folder / "record.json").write_text(json.dumps(record | facts, indent=2) + "\n")


class Table:
    """A CSV file that gets a row as soon as it is found; the rows that it had before stay."""

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.rows = path, []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
        if not self.rows:
            with path.open("w", newline="") as file:
                csv.writer(file).writerow(columns)

    def has(self, **values: Any) -> bool:
        """Whether a row has these values."""
        return any(all(row[name] == str(value) for name, value in values.items()) for row in self.rows)

    def add(self, *row: Any) -> None:
        """Appends a row; numbers keep four digits, None is empty."""
        row = [f"{x:.4g}" if isinstance(x, float) else "" if x is None else str(x) for x in row]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        with self.path.open(newline="") as file:
            self.rows = list(csv.DictReader(file))
