"""Source of examples from arrays in memory."""

from collections.abc import Sequence

import numpy as np


class ArraySource:
    """Examples {"image": uint8 `[H, W, C]`, "label": int32 scalar} from two arrays.

    Attributes:
      classes: their names, in the order of the labels, or None.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str] | None = None):
        """Takes images uint8 `[N, H, W, C]`, labels `[N]`, and the names of the classes, if they have some."""
        self._images, self._labels = images, labels.astype(np.int32)
        self.classes = None if classes is None else list(classes)

    @property
    def num_classes(self) -> int:
        """Number of names; without names, one more than the largest label."""
        return len(self.classes) if self.classes else int(self._labels.max()) + 1

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self._images[index], "label": self._labels[index]}
