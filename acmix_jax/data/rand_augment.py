"""RandAugment (Cubuk et al., 2020) as in the training of PVT and Swin: timm's rand-m9-mstd0.5-inc1, with Pillow.

Magnitudes are on a scale from 0 to 10; a larger one is a stronger change in every operation ("increasing").
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from acmix_jax.errors import UserError

MAGNITUDE, DEVIATION, LARGEST = 9.0, 0.5, 10.0
COUNT = 2  # operations for each image
PROBABILITY = 0.5  # that a chosen operation is applied


def rand_augment(image: np.ndarray, rng: np.random.Generator, fill: tuple[int, ...], interpolation) -> np.ndarray:
    """Applies up to two random operations.

    Args:
      image: uint8 `[H, W, 3]`.
      fill: colour of pixels from outside the image.
      interpolation: a Pillow resampling filter.

    Raises:
      UserError: the image is grey; half of the operations change colours.
    """
    if image.shape[-1] != 3:
        raise UserError("--config.data.rand_augment=True needs RGB images, these are grey; set it to False")
    picture = Image.fromarray(image)
    for name in rng.choice(list(OPERATIONS), COUNT):
        if rng.random() < PROBABILITY:
            level = np.clip(rng.normal(MAGNITUDE, DEVIATION), 0, LARGEST) / LARGEST
            sign = 1 if rng.random() < 0.5 else -1
            picture = OPERATIONS[name](picture, level, sign, {"resample": interpolation, "fillcolor": fill})
    return np.asarray(picture)


def _affine(picture, matrix, outside):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **outside)


def _enhance(kind):
    return lambda picture, level, sign, outside: kind(picture).enhance(1 + sign * 0.9 * level)


def _solarize_add(picture, level, sign, outside):
    """Brightens the darker half of the values."""
    added = int(110 * level)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return picture.point(3 * table)


def _posterize(picture, level, sign, outside):
    bits = 4 - int(4 * level)
    return ImageOps.posterize(picture, bits) if bits else picture.point(lambda value: 0)


OPERATIONS = {  # (picture, level from 0 to 1, sign, resample and fillcolor) -> picture
    "auto_contrast": lambda picture, level, sign, outside: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level, sign, outside: ImageOps.equalize(picture),
    "invert": lambda picture, level, sign, outside: ImageOps.invert(picture),
    "rotate": lambda picture, level, sign, outside: picture.rotate(sign * 30 * level, **outside),
    "posterize": _posterize,
    "solarize": lambda picture, level, sign, outside: ImageOps.solarize(picture, 256 - int(256 * level)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda picture, level, sign, outside: _affine(picture, (1, sign * 0.3 * level, 0, 0, 1, 0), outside),
    "shear_y": lambda picture, level, sign, outside: _affine(picture, (1, 0, 0, sign * 0.3 * level, 1, 0), outside),
    "translate_x": lambda picture, level, sign, outside: _affine(
        picture, (1, 0, sign * 0.45 * level * picture.width, 0, 1, 0), outside
    ),
    "translate_y": lambda picture, level, sign, outside: _affine(
        picture, (1, 0, 0, 0, 1, sign * 0.45 * level * picture.height), outside
    ),
}
