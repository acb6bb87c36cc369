"""Encoded photographs (JPEG, PNG, ...) to arrays: rotated upright by their EXIF orientation, 8 bits, RGB or grey.

simplejpeg (libjpeg-turbo) decodes upright RGB and grey JPEGs, Pillow everything else.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from acmix_jax.errors import UserError

_APP1 = b"\xff\xe1"  # marker of EXIF and XMP in a JPEG; never part of its compressed pixels
_ORIENTATION, _UPRIGHT, _FIRST_ROTATED = 0x0112, 1, 5


class Photo(NamedTuple):
    """An encoded image."""

    data: bytes
    name: str  # its origin, for error messages
    channels: int = 3  # of the decoded array; 1 is grey


class CorruptImage(UserError):
    """An image that cannot be decoded completely; the message names it."""


def size(photo: Photo) -> tuple[int, int]:
    """Height and width, from the header alone; raises CorruptImage."""
    return _jpeg_size(photo) or _with_pillow(photo, _upright_size)


def decode(photo: Photo, part: tuple[int, int, int, int] | None = None, shrink: int = 1) -> np.ndarray:
    """The image or a part of it, as uint8 `[H, W, channels]`.

    Args:
      photo: any format that Pillow reads; transparency is dropped, 16 bits become 8.
      part: top, left, bottom, right, in pixels of the whole image.
      shrink: 1, 2, 4 or 8; divides both sides of a JPEG (rounded up), which makes decoding faster.

    Raises:
      CorruptImage: the file ends too early, or is no image.
    """
    jpeg_size = _jpeg_size(photo)
    image = _decode_jpeg(photo, jpeg_size, shrink) if jpeg_size else None
    if image is None:
        image, shrink = _with_pillow(photo, lambda image: _pixels(image, photo.channels, shrink))
    if part:
        top, left, bottom, right = (round(side / shrink) for side in part)
        image = image[top:bottom, left:right]
    return image


def _jpeg_size(photo):
    """Height and width of an upright RGB or grey JPEG; None for every other file."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(photo.data)
    except ValueError:
        return None
    is_rotated = _APP1 in photo.data and _with_pillow(photo, _orientation) != _UPRIGHT
    return None if is_rotated or colors not in ("YCbCr", "RGB", "Gray") else (height, width)


def _decode_jpeg(photo, full_size, shrink):
    """The whole image; None if libjpeg warns of anything."""
    height, width = (-(-side // shrink) if shrink > 1 else 0 for side in full_size)  # 0: full size
    try:
        colors = "GRAY" if photo.channels == 1 else "RGB"
        return simplejpeg.decode_jpeg(photo.data, colors, min_height=height, min_width=width, strict=True)
    except ValueError:
        return None


def _pixels(image, channels, shrink):
    """Array of a Pillow image, and the factor that divided its sides: 1 unless it is a JPEG."""
    whole = image.width
    image.draft(None, (image.width // shrink, image.height // shrink))
    shrunk = round(whole / image.width)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of lost transparency if it becomes RGB directly
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels), shrunk


def _orientation(image):
    return image.getexif().get(_ORIENTATION, _UPRIGHT)


def _upright_size(image):
    return image.size if _orientation(image) >= _FIRST_ROTATED else image.size[::-1]


def _with_pillow(photo: Photo, action: Callable[[Image.Image], Any]) -> Any:
    if not photo.data:
        raise _corrupt(photo, "it is empty")
    try:
        with Image.open(io.BytesIO(photo.data)) as image:
            return action(image)
    except Exception as error:  # Pillow's formats raise many types for files that they cannot read
        reason = "it ends too early" if "truncated" in str(error) else "it is no image"
        raise _corrupt(photo, reason) from error


def _corrupt(photo, reason):
    return CorruptImage(f"image {photo.name} is corrupt ({reason})")
