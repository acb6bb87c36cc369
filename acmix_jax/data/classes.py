"""Names and colours of the classes of label maps."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from acmix_jax.errors import UserError, first_few, printable

_FORM = "a line name,color, then one line per class in the order of the labels, such as sky,#87ceeb or sky"


def read_classes(directory: Path) -> tuple[list[str], np.ndarray]:
    """Names of the K classes of a data set, and their colours uint8 `[K, 3]`, from a file in its folder.

    classes.csv has a line "name,color" or "name", then a line for each class, with a colour such as #87ceeb or without;
    classes without one get that of `palette`. ADE20K's own objectInfo150.txt does, too.

    Raises:
      UserError: there is neither of these files, it cannot be understood, or two classes have one name.
    """
    path = next((directory / n for n in ("classes.csv", "objectInfo150.txt") if (directory / n).is_file()), None)
    if path is None:
        raise UserError(f"no classes.csv in {printable(str(directory))}; write one: {_FORM}")
    shown = printable(str(path))
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not UTF-8 ({error.reason} at byte {error.start}); save it so") from error
    is_csv = path.suffix == ".csv"
    column, delimiter = ("name", ",") if is_csv else ("Name", "\t")
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    if not rows or column not in rows[0]:
        raise UserError(f"{shown} has no column {column} with classes; it needs {_FORM}")
    names = [(row[column] or "").strip() for row in rows]
    if not is_csv:  # synonyms, of which the first one is the usual name
        names = [name.partition(",")[0].strip() for name in names]
    _check_names(shown, names)
    colors = palette(names)
    for i, row in enumerate(rows):
        if color := (row.get("color") or "").strip():
            colors[i] = _parse_color(shown, names[i], color)
    return names, colors


def _check_names(shown, names):
    problem = ""
    if not all(names):
        problem = f"line {names.index('') + 2} has no name"
    elif repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        problem = f"{first_few(map(printable, repeated))} is there more than once"
    elif not 2 <= len(names) <= 255:
        problem = f"it has {len(names)} classes; label maps of 8 bits can have 2 to 255"
    if problem:
        raise UserError(f"{shown} cannot be used: {problem}")


def _parse_color(shown, name, color):
    if not re.fullmatch("#[0-9a-fA-F]{6}", color):
        raise UserError(f"{shown}: class {printable(name)} has color {color!r}; write it as #87ceeb")
    return tuple(bytes.fromhex(color[1:]))


def palette(names: Sequence[str]) -> np.ndarray:
    """A colour for each class, uint8 `[K, 3]`: black for "background", others as far apart as they can be.

    Each is the one, among about 400 colours neither dark nor pale, whose distance to the nearest of those before it, or
    to mid grey, is largest in Oklab, where equal distances look alike (Ottosson, "A perceptual color space for image
    processing", 2020).
    """
    levels = np.linspace(0, 255, 9).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _oklab(candidates)
    bright = (places[:, 0] > 0.5) & (places[:, 0] < 0.95)
    candidates, places = candidates[bright], places[bright]
    nearest = np.linalg.norm(places - _oklab(np.array([[128, 128, 128]])), axis=1)
    colors = np.zeros((len(names), 3), np.uint8)
    for i, name in enumerate(names):
        if name != "background":
            best = nearest.argmax()
            colors[i] = candidates[best]
            nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return colors


def _oklab(colors):
    """Oklab coordinates `[N, 3]` of sRGB colours `[N, 3]` from 0 to 255."""
    c = colors / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_cones = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ])  # fmt: skip
    to_lab = np.array([
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ])  # fmt: skip
    return np.cbrt(linear @ to_cones.T) @ to_lab.T
