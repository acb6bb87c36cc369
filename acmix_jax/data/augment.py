"""Random changes to one training image, on the host: `example, rng -> example`, with uint8 images `[H, W, C]`."""

import numpy as np


def shift(example: dict, rng: np.random.Generator, pixels: int) -> dict:
    """Moves the image by up to `pixels` in each direction; zeros come in from outside."""
    image = example["image"]
    height, width = image.shape[:2]
    y, x = rng.integers(0, 2 * pixels + 1, size=2)
    padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    return {**example, "image": padded[y : y + height, x : x + width]}


def flip(example: dict, rng: np.random.Generator) -> dict:
    """Mirrors every other image, left to right."""
    return {**example, "image": example["image"][:, ::-1]} if rng.random() < 0.5 else example
