"""Source of scenes composed of scikit-learn's scanned digits, without a download.

A scene is made when it is asked for, in about a millisecond, and is a function of the seed, the split and its index.
Three or four digits of data/digits.py, enlarged to 14 to 18 pixels, each in a colour of its own, lie on a darker,
uneven background. Scenes of the test split hold unseen digits.
"""

import numpy as np
from PIL import Image

from acmix_jax.data import digits
from acmix_jax.data.classes import palette
from acmix_jax.data.compose import Scene, compose

SIZE = 32  # pixels, height and width of a scene
COUNT = {"train": 10_000, "test": 200}
CLASSES = ("background", *"0123456789")

_DIGITS, _SIDES = (3, 4), (14, 18)  # fewest and most of a scene, before some find no place; pixels of a digit's sides


class SceneSource:
    """Examples {"image": uint8 `[32, 32, 3]`, "label_map": uint8 `[32, 32]`}.

    Attributes:
      classes: "background" and the ten digits, in the order of the labels.
      colors: uint8 `[11, 3]`, to draw the classes in.
    """

    classes, num_classes = list(CLASSES), len(CLASSES)

    def __init__(self, split: str, seed: int = 0):
        """Takes the digits of split "train" or "test"."""
        self._digits, self._split, self._seed = digits.load(split, ""), split, seed
        self.colors = palette(CLASSES)

    def __len__(self) -> int:
        return COUNT[self._split]

    def scene(self, index: int) -> Scene:
        """A scene with its boxes and masks, too."""
        rng = np.random.default_rng((self._seed, list(COUNT).index(self._split), index))
        cutouts = [self._cutout(rng) for _ in range(rng.integers(_DIGITS[0], _DIGITS[1] + 1))]
        return compose(_background(rng), cutouts, rng, largest_overlap=0.15, noise=6)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        scene = self.scene(index)
        return {"image": scene.image, "label_map": scene.label_map}

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of the image."""
        return SIZE, SIZE

    def name(self, index: int) -> str:
        """The name of a scene in messages and lists."""
        return f"{self._split} scene {index}"

    def _cutout(self, rng):
        """A digit `[side, side, 4]` with soft edges, which is half opaque where its enlarged ink is 0.4; its label."""
        digit, side = self._digits[rng.integers(len(self._digits))], int(rng.integers(_SIDES[0], _SIDES[1] + 1))
        enlarged = Image.fromarray(digit["image"][..., 0]).resize((side, side), Image.Resampling.BICUBIC)
        opacity = np.clip(3 * (np.asarray(enlarged, np.float32) / 255 - 0.4) + 0.5, 0, 1)
        color = np.broadcast_to(rng.uniform(130, 255, 3), (side, side, 3))
        return np.dstack([color, opacity]), int(digit["label"]) + 1


def _background(rng):
    """Dark patches of several colours with soft edges, uint8 `[S, S, 3]`."""
    patches = rng.integers(0, 140, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
