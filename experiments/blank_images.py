"""Blank images with labels or label maps, as many as a data set has and without memory, to compile a program for."""

from typing import Any

import numpy as np

from acmix_jax.data.arrays import ArraySource


def blank_images(task: str, size: int, num_classes: int | None = None) -> Any:
    """A source of size x size pixels, with as many examples and, by default, classes as ImageNet or ADE20K."""
    count, classes = (20_210, 150) if task == "segmentation" else (1_281_167, 1000)
    pixels = np.broadcast_to(np.uint8(0), (count, size, size, 3))  # no memory
    if task == "segmentation":
        return BlankMaps(pixels, num_classes or classes)
    return ArraySource(pixels, np.arange(count) % (num_classes or classes))


class BlankMaps:
    """Examples {"image": uint8 `[S, S, 3]`, "label_map": uint8 `[S, S]`} without content."""

    def __init__(self, pixels: np.ndarray, num_classes: int):
        """Takes images uint8 `[N, S, S, 3]`."""
        self._pixels, self.num_classes = pixels, num_classes
        self.classes = [f"class {label}" for label in range(num_classes)]
        self.colors = np.zeros((num_classes, 3), np.uint8)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self._pixels[index], "label_map": self._pixels[index, ..., 0]}

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self._pixels.shape[1:3]
