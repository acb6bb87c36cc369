"""Real photographs for tests: pieces of those that scikit-learn and matplotlib carry, as JPEG files."""

import io
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> dict[str, np.ndarray]:
    """uint8 `[H, W, 3]` by what they show."""
    china, flower = load_sample_images().images
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return {"china": china, "flower": flower, "hopper": np.asarray(Image.open(hopper))}


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    """The bytes of a file of this format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_folder(root: Path, train: int, test: int, seed: int = 0, largest: int = 120) -> Path:
    """A folder of images with a class for each photograph, that many pieces of it in train/ and in val/."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", test)):
        for name, photo in photographs().items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(largest // 2, largest + 1, 2)
                top, left = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
                piece = Image.fromarray(photo[top : top + height, left : left + width])
                piece.save(root / split / name / f"{i:04d}.JPEG", quality=90)
    return root
