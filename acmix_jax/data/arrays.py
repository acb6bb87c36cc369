"""Source of examples from arrays in memory."""

import numpy as np


class ArraySource:
    """Examples {"image": uint8 `[H, W, C]`, "label": int32 scalar} from two arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Takes images uint8 `[N, H, W, C]` and labels `[N]`."""
        self._images, self._labels = images, labels.astype(np.int32)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self._labels.max()) + 1

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self._images[index], "label": self._labels[index]}
