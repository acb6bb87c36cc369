"""Source of images in folders, one per class: DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg."""

import os
from pathlib import Path

import numpy as np

from acmix_jax.data import photos
from acmix_jax.errors import UserError, check_choice

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # upper or lower case
SPLITS = {"train": ("train",), "test": ("val", "validation", "test")}
"""Names of the folders of a split; the first one that exists is used, as the test split of ImageNet has no labels."""


class FolderSource:
    """Examples {"image": Photo, "label": int32 scalar}, sorted by class and file name.

    Classes are the folders below train/, sorted by name; other splits may lack some.
    """

    def __init__(self, directory: str, split: str):
        """Lists the files of split "train" or "test" without opening them.

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
        # Arrays instead of lists of objects, because each worker process gets a copy.
        self._files, self._labels = np.array(files), np.array(labels, np.int32)

    @property
    def num_classes(self) -> int:
        """Number of folders below train/."""
        return len(self.classes)

    def names(self) -> list[str]:
        """Paths of all images, relative to the folder of the split."""
        return [os.fsdecode(name) for name in self._files]

    def name(self, index: int) -> str:
        """The path of an image for messages and lists."""
        return str(self._path(index))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        """Reads the file of one image; raises CorruptImage, with the reason, if that is not possible."""
        path = self._path(index)
        return {"image": photos.read(path, str(path)), "label": self._labels[index]}

    def _path(self, index):
        return self._root / os.fsdecode(self._files[index])


def _split_folder(directory, split):
    folders = [Path(directory) / name for name in SPLITS[split]]
    existing = next((folder for folder in folders if folder.is_dir()), None)
    if existing is None:
        raise UserError(f"no folder {' or '.join(map(str, folders))}; set --config.data.dir to the one above it")
    return existing


def _folders_in(folder):
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
