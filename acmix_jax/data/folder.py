"""Source of images in folders, one per class: DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg.

Images may lie at any depth below the folder of their class. See listing.py for what counts as a class and as an image.
"""

import os
import sys
from pathlib import Path

import numpy as np

from acmix_jax.data import photos
from acmix_jax.data.listing import LeftOut, class_folders, images_in
from acmix_jax.errors import UserError, first_few, nearest, printable

SPLITS = {"train": ("train",), "test": ("val", "validation", "test")}
"""Names of the folders of a split; the first one that exists is used, as the test split of ImageNet has no labels."""


class FolderSource:
    """Examples {"image": Photo, "label": int32 scalar}, sorted by class and path.

    Attributes:
      classes: names of the folders below train/, sorted; other splits may lack some.
    """

    def __init__(self, directory: str, split: str):
        """Lists the files of split "train" or "test" without opening them.

        Warnings say what is left out, and which classes have no images in the test split.

        Raises:
          UserError: no such folder, no image in it, a class of train/ without images, or one that train/ does not have.
        """
        train, self._root = (_split_folder(directory, name) for name in ("train", split))
        left_out, root, shown = LeftOut(), str(self._root), printable(str(self._root))
        names = class_folders(root, left_out)
        self.classes = names if split == "train" else class_folders(str(train), LeftOut())
        label_of = {name: label for label, name in enumerate(self.classes)}
        _check_known([name for name in names if name not in label_of], self.classes, self._root, train)
        images = {name: images_in(root, name, left_out) for name in names}
        if said := str(left_out):
            print(f"warning: left out of {shown}: {said}", file=sys.stderr)
        if not any(images.values()):
            raise UserError(f"no images in {shown}; it needs a folder for each class, with .jpg, .png or other images")
        empty = [name for name in self.classes if not images.get(name)]
        few = first_few(map(printable, empty))
        if empty and split == "train":
            raise UserError(f"no images in {len(empty):,} class folders of {shown}: {few}; add some, or remove them")
        if empty:
            share = f"{len(empty):,} of {len(self.classes):,} classes have no images in {shown}"
            print(f"warning: {share}, so nothing measures them: {few}", file=sys.stderr)
        # Arrays instead of lists of objects, because each worker process gets a copy.
        self._files = np.array([os.fsencode(image) for name in names for image in images[name]])
        self._labels = np.repeat(np.array([label_of[name] for name in names], np.int32), [*map(len, images.values())])

    @property
    def num_classes(self) -> int:
        """Number of folders below train/."""
        return len(self.classes)

    def names(self) -> list[str]:
        """Paths of all images, relative to the folder of the split."""
        return [os.fsdecode(name) for name in self._files]

    def name(self, index: int) -> str:
        """The path of an image for messages and lists: in one line, see `printable`."""
        return printable(str(self._path(index)))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        """Reads the file of one image; raises CorruptImage, with the reason, if that is not possible."""
        return {"image": photos.read(self._path(index), self.name(index)), "label": self._labels[index]}

    def _path(self, index):
        return self._root / os.fsdecode(self._files[index])


def _split_folder(directory, split):
    folders = [Path(directory) / name for name in SPLITS[split]]
    existing = next((folder for folder in folders if folder.is_dir()), None)
    if existing is None:
        tried = " or ".join(printable(str(folder)) for folder in folders)
        hint = "set --config.data.dir (or --folder) to one that holds train/CLASS/ and val/CLASS/"
        raise UserError(f"no folder {tried}; {hint}")
    return existing


def _check_known(unknown, classes, root, train):
    if unknown:
        first, more = first_few([printable(unknown[0])]), f" and {len(unknown) - 1:,} more" * (len(unknown) > 1)
        raise UserError(
            f"unknown class folder {first}{more} in {printable(str(root))}, not among the {len(classes):,} of "
            f"{train.name}/; {nearest(unknown[0], classes)}"
        )
