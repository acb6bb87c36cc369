"""Images in folders, one for each class: DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg."""

import os
from pathlib import Path

import numpy as np

from acmix_jax.data.photos import Photo
from acmix_jax.errors import UserError, check_choice

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # in any case
SPLITS = {"train": ("train",), "test": ("val", "validation", "test")}
"""Their names elsewhere; the first that is there counts, as the test split of ImageNet has no labels."""


class FolderSource:
    """Examples {"image": Photo, "label": int32 scalar}, sorted by class and file name.

    Classes are the folders below train/, in the order of their names; others may have fewer of them.
    """

    def __init__(self, directory: str, split: str):
        """Looks for the files of split "train" or "test"; opens none.

        Raises:
          UserError: no such folder, no image in it, or a class that train/ does not have.
        """
        self.classes = _folders_in(_split_folder(directory, "train"))
        self._root = _split_folder(directory, split)
        files, labels = [], []
        for name in _folders_in(self._root):
            check_choice(f"class folder in {self._root}", name, self.classes)
            images = sorted(e.name for e in os.scandir(self._root / name) if e.name.lower().endswith(SUFFIXES))
            files += [os.fsencode(os.path.join(name, image)) for image in images]
            labels += [self.classes.index(name)] * len(images)
        if not files:
            raise UserError(f"no images in {self._root}; it needs a folder for each class with {', '.join(SUFFIXES)}")
        # Arrays, not lists of objects, as each worker process gets a copy.
        self._files, self._labels = np.array(files), np.array(labels, np.int32)

    @property
    def num_classes(self) -> int:
        """Folders below train/."""
        return len(self.classes)

    def names(self) -> list[str]:
        """Of all images, relative to the folder of the split."""
        return [os.fsdecode(name) for name in self._files]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        path = self._root / os.fsdecode(self._files[index])
        try:
            return {"image": Photo(path.read_bytes(), str(path)), "label": self._labels[index]}
        except OSError as error:
            raise UserError(f"cannot read image {path} ({error.strerror})") from error


def _split_folder(directory, split):
    folders = [Path(directory) / name for name in SPLITS[split]]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise UserError(f"no folder {' or '.join(map(str, folders))}; set --config.data.dir to the one above it")
    return found


def _folders_in(folder):
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
