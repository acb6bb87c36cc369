"""Encoded photographs (JPEG, PNG, ...) to arrays: upright as their EXIF says, eight bits, RGB or grey.

simplejpeg decodes the usual JPEG, and of it no more than is asked for; Pillow everything else.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from acmix_jax.errors import UserError

_BASELINE, _PROGRESSIVE, _EXIF = (0xC0, 0xC1), 0xC2, 0xE1  # markers in a JPEG
_END = b"\xff\xd9"
_ORIENTATION, _UPRIGHT, _FIRST_ON_ITS_SIDE = 0x0112, 1, 5
_ROWS_BELOW = 16  # that the decoder smooths colours with


class Photo(NamedTuple):
    """An image as it lies in a file."""

    data: bytes
    name: str  # for messages: where it comes from
    channels: int = 3  # of the array to make of it; 1 is grey


class DamagedImage(UserError):
    """An image that cannot be decoded as a whole; its message names it."""


class _Header(NamedTuple):
    """Of a JPEG."""

    height: int
    width: int
    place: int  # of the height in the file
    baseline: bool  # stored row after row


def size(photo: Photo) -> tuple[int, int]:
    """Height and width, from the header alone; raises DamagedImage."""
    header = _header(photo)
    return header[:2] if header else _with_pillow(photo, _upright_size)


def decode(photo: Photo, part: tuple[int, int, int, int] | None = None, shrink: int = 1) -> np.ndarray:
    """The image or a part of it, as uint8 `[H, W, channels]`.

    Args:
      photo: any format that Pillow reads; transparency is dropped, 16 bits become 8.
      part: top, left, bottom, right.
      shrink: 1, 2, 4 or 8, what both sides of a JPEG are divided by (rounded up), which takes less time.

    Raises:
      DamagedImage: it ends too early, or is no image.
    """
    header = _header(photo)
    image = _decode_jpeg(photo, header, part, shrink) if header else None
    if image is None:
        image, shrink = _with_pillow(photo, lambda image: _pixels(image, photo.channels, shrink))
    if part:
        top, left, bottom, right = (round(side / shrink) for side in part)
        image = image[top:bottom, left:right]
    return image


def _header(photo):
    """None for other formats, and for JPEGs that are not upright or have other colours than RGB and grey."""
    data, place = photo.data, 2
    while data.startswith(b"\xff\xd8\xff") and place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _EXIF and _with_pillow(photo, _orientation) != _UPRIGHT:
            return None
        if marker in (*_BASELINE, _PROGRESSIVE):  # after it: two bytes of length, one of precision
            height, width = (int.from_bytes(data[place + i : place + i + 2]) for i in (5, 7))
            usual = height and data[place + 9] in (1, 3)
            return _Header(height, width, place + 5, marker in _BASELINE) if usual else None
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def _decode_jpeg(photo, header, part, shrink):
    """All columns of at least the rows of a part; None if anything about the file is odd."""
    data, height = photo.data, header.height
    partial = part and header.baseline and _END in data[-1024:]
    if partial:  # a file that says to have fewer rows; those below need not be decoded
        height = min(height, part[2] + _ROWS_BELOW)
        data = data[: header.place] + height.to_bytes(2) + data[header.place + 2 :]
    smallest = {"min_height": -(-height // shrink), "min_width": -(-header.width // shrink)} if shrink > 1 else {}
    try:
        colors = "GRAY" if photo.channels == 1 else "RGB"
        return simplejpeg.decode_jpeg(data, colors, strict=not partial, **smallest)  # it warns of the rows below
    except ValueError:
        return None


def _pixels(image, channels, shrink):
    """A Pillow image as an array, and what its sides were divided by: 1 if it is no JPEG."""
    whole = image.width
    image.draft(None, (image.width // shrink, image.height // shrink))
    shrunk = round(whole / image.width)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of what is lost if it becomes RGB at once
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels), shrunk


def _orientation(image):
    return image.getexif().get(_ORIENTATION, _UPRIGHT)


def _upright_size(image):
    return image.size if _orientation(image) >= _FIRST_ON_ITS_SIDE else image.size[::-1]


def _with_pillow(photo: Photo, action: Callable[[Image.Image], Any]) -> Any:
    if not photo.data:
        raise _damaged(photo, "it is empty")
    try:
        with Image.open(io.BytesIO(photo.data)) as image:
            return action(image)
    except Exception as error:  # its formats raise many types for what they cannot read
        reason = "it ends too early" if "truncated" in str(error) else "it is no image"
        raise _damaged(photo, reason) from error


def _damaged(photo, reason):
    return DamagedImage(f"image {photo.name} is damaged ({reason})")
