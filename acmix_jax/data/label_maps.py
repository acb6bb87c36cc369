"""Source of images with label maps in ADE20K's layout: DIR/images/training/a.jpg, DIR/annotations/training/a.png.

The test split is in validation/. Images may be of any format, and lie in folders below; the label map of an image has
the same path below annotations/, and is a PNG of 8 bits, grey or with a palette. See classes.py for the names of the
classes, and listing.py for what counts as an image.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

from acmix_jax.data import photos
from acmix_jax.data.classes import read_classes
from acmix_jax.data.listing import LeftOut, images_in
from acmix_jax.data.photos import CorruptImage
from acmix_jax.errors import UserError, first_few, printable

SPLITS = {"train": "training", "test": "validation"}
_JPEG_START = 2**16  # bytes


class LabelMapSource:
    """Examples {"image": Photo, "label_map": Photo, as stored}, sorted by path.

    Attributes:
      classes: names of the classes, in the order of the labels.
      colors: uint8 `[K, 3]`, to draw the classes in.
    """

    def __init__(self, directory: str, split: str):
        """Lists the files of split "train" or "test" without opening them; a warning says what is left out.

        Raises:
          UserError: there is no such folder, no image in it, an image without a label map, a label map without an
            image, two images with one label map, or no file of classes.
        """
        root = Path(directory)
        folders = [root / kind / SPLITS[split] for kind in ("images", "annotations")]
        if missing := [folder for folder in folders if not folder.is_dir()]:
            raise UserError(
                f"no folder {printable(str(missing[0]))}; set --config.data.dir to the one that holds images/ and "
                f"annotations/, each with {' and '.join(SPLITS.values())} in it"
            )
        self.classes, self.colors = read_classes(root)
        images, label_maps = (_by_stem(folder) for folder in folders)
        if not images:
            raise UserError(f"no images in {printable(str(folders[0]))}; it needs .jpg, .png or others")
        _check_pairs(images, label_maps, *folders)
        # Arrays instead of lists of objects, because each worker process gets a copy.
        self._folders, stems = folders, sorted(images)
        self._files = [np.array([os.fsencode(paths[stem]) for stem in stems]) for paths in (images, label_maps)]

    @property
    def num_classes(self) -> int:
        """Number of classes in the file that names them."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self._files[0])

    def __getitem__(self, index: int) -> dict:
        """Reads the two files of an example; raises CorruptImage, with the reason, if that is not possible."""
        return {"image": self._read(0, index), "label_map": self._read(1, index)}

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of an image, upright; of a JPEG from its first 64 KB, if they do. Raises CorruptImage."""
        start = self._read(0, index, limit=_JPEG_START)
        if start.data.startswith(b"\xff\xd8"):  # other formats may have their orientation at the end
            with contextlib.suppress(CorruptImage):
                return photos.size(start)
        return photos.size(self._read(0, index))

    def name(self, index: int) -> str:
        """The path of an image for messages and lists: in one line, see `printable`."""
        return printable(str(self._path(0, index)))

    def _path(self, kind, index):
        return self._folders[kind] / os.fsdecode(self._files[kind][index])

    def _read(self, kind, index, limit=-1):
        path = self._path(kind, index)
        return photos.read(path, printable(str(path)), limit)


def _by_stem(folder):
    """Paths of the images in a folder, relative to it, by the path without its suffix."""
    left_out, paths, shown = LeftOut(), {}, printable(str(folder))
    for path in images_in(str(folder.parent), folder.name, left_out):
        path = path.removeprefix(f"{folder.name}/")
        other = paths.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise UserError(f"{_named([other, path])} in {shown} differ by their suffix alone; remove one")
    if said := str(left_out):
        print(f"warning: left out of {shown}: {said}", file=sys.stderr)
    return paths


def _check_pairs(images, label_maps, image_folder, label_folder):
    problems = {
        "label maps in {1} that are no .png": [p for p in label_maps.values() if not p.lower().endswith(".png")],
        "images in {0} without a label map in {1}": [images[stem] for stem in images.keys() - label_maps.keys()],
        "label maps in {1} without an image in {0}": [label_maps[stem] for stem in label_maps.keys() - images.keys()],
    }
    for problem, paths in problems.items():
        if paths:
            where = problem.format(printable(str(image_folder)), printable(str(label_folder)))
            raise UserError(f"{len(paths):,} {where}: {_named(paths)}; add the right files, or remove these")


def _named(paths):
    return first_few(map(printable, sorted(paths)))
