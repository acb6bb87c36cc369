"""Encoded photographs (JPEG, PNG, ...) to arrays: upright as their EXIF says, eight bits, RGB or grey."""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from acmix_jax.errors import UserError

cv2.setNumThreads(0)  # the pipeline has threads and processes of its own

_FLAGS = {  # of OpenCV, by channels and by the power of two that the decoder divides both sides by
    3: {
        1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    },
    1: {
        1: cv2.IMREAD_GRAYSCALE, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    },
}  # fmt: skip
_EXIF_ORIENTATION, _FIRST_ON_ITS_SIDE = 0x0112, 5


class Photo(NamedTuple):
    """An image as it lies in a file."""

    data: bytes
    name: str  # for messages: where it comes from
    channels: int = 3  # of the array to make of it; 1 is grey


class DamagedImage(UserError):
    """An image that cannot be decoded as a whole; its message names it."""


def size(photo: Photo) -> tuple[int, int]:
    """Height and width, from the header alone; raises DamagedImage."""
    _check(photo)
    try:
        with Image.open(io.BytesIO(photo.data)) as image:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            return image.size if orientation >= _FIRST_ON_ITS_SIDE else image.size[::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(photo, "it is no image") from error


def decode(photo: Photo, shrink: int = 1) -> np.ndarray:
    """The image as uint8 `[H, W, channels]`.

    Args:
      photo: any format that OpenCV reads; transparency is dropped, 16 bits become 8.
      shrink: 1, 2, 4 or 8, what both sides are divided by (rounded up); JPEGs are decoded faster then.

    Raises:
      DamagedImage: it ends too early, or is no image.
    """
    _check(photo)
    image = cv2.imdecode(np.frombuffer(photo.data, np.uint8), _FLAGS[photo.channels][shrink])
    if image is None:
        raise _damaged(photo, "it is no image")
    return image[..., None] if photo.channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check(photo):
    data = photo.data
    if not data:
        raise _damaged(photo, "it is empty")
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise _damaged(photo, "it ends too early")  # OpenCV would fill the rest with grey


def _damaged(photo, reason):
    return DamagedImage(f"image {photo.name} is damaged ({reason})")
