"""Lists the images in folders of classes, without opening a file, and counts what it leaves out."""

import errno
import os
from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image

from acmix_jax.errors import UserError, first_few, printable

SYSTEM_FOLDERS = frozenset(
    {
        "__macosx", "network trash folder",  # macOS
        "$recycle.bin", "system volume information",  # Windows
        "lost+found",  # Linux
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot",  # network storage
        "__pycache__",
    }
)  # fmt: skip
"""Folders that systems leave among those of the user, in lower case; none has a name that a class may have."""

_NO_PIXELS = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow only tells by their first bytes, and leaves to other libraries."""

FILE, FOLDER, BROKEN = "file", "folder", "broken link"
HIDDEN, SYSTEM, OUTSIDE, OTHER, SPECIAL, BACK = (  # reasons to leave an entry out
    "hidden",
    "left by a system",
    "outside of the class folders",
    "without a suffix that Pillow reads",
    "neither file nor folder",
    "linked back into these folders",
)


class LeftOut:
    """Counts what a listing leaves out, by reason and, for files that are no images, by suffix."""

    def __init__(self):
        self._counts, self._examples, self._suffixes = Counter(), {}, Counter()

    def add(self, reason: str, path: str) -> None:
        """Counts one entry; the first of each reason becomes its example."""
        self._counts[reason] += 1
        self._examples.setdefault(reason, path)
        if reason == OTHER:
            self._suffixes[_suffix(path) or "none"] += 1

    def __str__(self) -> str:
        parts = []
        for reason, count in self._counts.items():
            suffixes = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))
            kinds = first_few([f"{number:,} {printable(suffix)}" for suffix, number in suffixes], count=5)
            example = first_few([printable(self._examples[reason])])
            parts.append(f"{count:,} {reason}{f' ({kinds})' * (reason == OTHER)}, such as {example}")
        return "; ".join(parts)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of all formats that Pillow reads by itself, in lower case, such as ".jpg"; EPS needs Ghostscript."""
    by_suffix = Image.registered_extensions()  # before OPEN, which it fills
    formats = Image.OPEN.keys() - _NO_PIXELS - {"EPS"}
    return frozenset(suffix for suffix, name in by_suffix.items() if name in formats)


def class_folders(root: str, left_out: LeftOut) -> list[str]:
    """Names of the folders in `root`, sorted.

    A link to a folder counts, unless it leads to `root` or to a folder that holds it. So does a link that leads
    nowhere: without it, the labels of other classes would change. `images_in` names it.

    Raises:
      UserError: the folder cannot be read.
    """
    names, real_root = [], Path(root).resolve()
    above = {_identity(folder.stat()) for folder in (real_root, *real_root.parents)}
    for entry in _entries(root):
        kind, is_image = _kind(entry), _suffix(entry.name) in image_suffixes()
        if kind in (HIDDEN, SYSTEM):
            left_out.add(kind, entry.name)
        elif kind == BACK or (kind == FOLDER and entry.is_symlink() and _identity(entry.stat()) in above):
            left_out.add(BACK, entry.name)
        elif kind == FOLDER or (kind == BROKEN and not is_image):
            names.append(entry.name)
        else:
            left_out.add(OUTSIDE if is_image else OTHER if kind == FILE else kind, entry.name)
    return sorted(names)


def images_in(root: str, name: str, left_out: LeftOut) -> list[str]:
    """Paths of the images at any depth below the class folder `name`, relative to `root`, sorted.

    Files are told by their suffix. Links are followed, but not those to folders that lead back into `root`, or to a
    folder on the way to them. A link with an image's suffix that leads nowhere is an image: reading it will say so.

    Raises:
      UserError: a folder cannot be read.
    """
    images, folders, suffixes = [], [os.path.join(root, name)], image_suffixes()
    while folders:
        for entry in _entries(folders.pop()):
            kind, path = _kind(entry), entry.path.removeprefix(os.path.join(root, ""))
            if kind == FOLDER and entry.is_symlink() and _leads_back(entry.path, root):
                left_out.add(BACK, path)
            elif kind == FOLDER:
                folders.append(entry.path)
            elif kind in (HIDDEN, SYSTEM, SPECIAL):
                left_out.add(kind, path)
            elif _suffix(entry.name) in suffixes:
                images.append(path)
            else:
                left_out.add(BACK if kind == BACK else OTHER, path)
    return sorted(images)


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"cannot list the folder {printable(folder)} ({reason_of(error)}); make it readable, or remove it"
        ) from error


def reason_of(error: OSError) -> str:
    """The reason for which a file or a folder cannot be read, from the error that says so."""
    is_broken_link = error.errno == errno.ENOENT and os.path.islink(error.filename)
    return "it is a link that leads nowhere" if is_broken_link else error.strerror


def _kind(entry):
    """HIDDEN, SYSTEM, SPECIAL, FILE, FOLDER, BACK (a link to itself), or BROKEN (a link that cannot be followed)."""
    if entry.name[0] == ".":
        return HIDDEN
    try:
        if entry.is_file():  # no call of the system for these, except for links
            return FILE
        if entry.is_dir():
            return SYSTEM if entry.name.lower() in SYSTEM_FOLDERS else FOLDER
        if entry.is_symlink():
            entry.stat()
    except OSError as error:
        return BACK if error.errno == errno.ELOOP else BROKEN
    return SPECIAL


def _suffix(path):
    _, dot, suffix = path.rpartition(".")
    return dot + suffix.lower() if dot and "/" not in suffix else ""


def _identity(stat):
    return stat.st_dev, stat.st_ino


def _leads_back(link, root):
    """True if a link inside a class folder leads into `root`, or to a folder above one on the way to it."""
    target, real_root, here = os.path.realpath(link), os.path.realpath(root), os.path.dirname(link)
    on_the_way = [real_root]
    while here != root:
        on_the_way.append(os.path.realpath(here))
        here = os.path.dirname(here)
    return _is_within(target, real_root) or any(_is_within(folder, target) for folder in on_the_way)


def _is_within(path, folder):
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
