"""1,797 scanned handwritten digits of 8x8 pixels; part of scikit-learn, without a download."""

import numpy as np

from acmix_jax.data.arrays import ArraySource


def load(split: str, directory: str) -> ArraySource:
    """Loads a split: "test" is every fifth digit (360), "train" the others (1,437); `directory` is unused."""
    from sklearn.datasets import load_digits  # 2 s of import that no other data set needs

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0 to 16
    chosen = (np.arange(len(images)) % 5 == 0) == (split == "test")
    return ArraySource(images[chosen], digits.target[chosen], [*"0123456789"])
