"""Encoded photographs (JPEG, PNG, ...) to arrays: turned upright by their orientation, 8 bits, RGB or grey.

simplejpeg (libjpeg-turbo) decodes RGB and grey JPEGs, Pillow everything else.
"""

import contextlib
import io
import math
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from acmix_jax.data import metadata
from acmix_jax.data.listing import reason_of
from acmix_jax.data.tiff import Tags
from acmix_jax.errors import UserError

_NO_FILES = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_16_BITS = ("PNG", "TIFF", "PPM", "JPEG2000")  # formats whose 16 bits have no sign; Pillow gives some as mode I


class Photo(NamedTuple):
    """An encoded image."""

    data: bytes
    name: str  # its origin, for error messages
    channels: int = 3  # of the decoded array; 1 is grey


class CorruptImage(UserError):
    """An image that cannot be read or decoded completely; the message names it and says why."""


def read(path: Path, name: str, limit: int = -1) -> Photo:
    """Reads a file, or its first `limit` bytes, without decoding it; only regular files are opened.

    Raises CorruptImage.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind == stat.S_IFREG:
            with path.open("rb", buffering=0) as file:
                return Photo(file.read(limit), name)
    except OSError as error:
        raise CorruptImage(f"image {name} cannot be read ({reason_of(error)})") from error
    except MemoryError as error:
        raise CorruptImage(f"image {name} is too large for the memory ({path.stat().st_size:,} bytes)") from error
    raise CorruptImage(f"image {name} cannot be read (it is {_NO_FILES.get(kind, 'no file')})")


def size(photo: Photo) -> tuple[int, int]:
    """Height and width of the upright image, from the header alone; raises CorruptImage."""
    return _read(photo, None)[0]


def decode(photo: Photo, part: tuple[int, int, int, int] | None = None, shrink: int = 1) -> np.ndarray:
    """The upright image or a part of it, as uint8 `[H, W, channels]`.

    Args:
      photo: any format that Pillow reads, of several images the first; transparency is dropped. Of grey with 16 bits
        the upper 8 remain, of 12 bits as well.
      part: top, left, bottom, right, in pixels of the whole upright image.
      shrink: 1, 2, 4 or 8; divides both sides of a JPEG (rounded up), which makes decoding faster.

    Raises:
      CorruptImage: the file ends too early, is no image, is too large for the memory, has integers of 32 bits, floats
        or signed numbers, whose range is unknown, or is a TIFF that Pillow misreads.
      ValueError: the part is not inside of the image.
    """
    (height, width), image, shrink = _read(photo, shrink)
    if image.shape[:2] != (-(-height // shrink), -(-width // shrink)):
        raise _corrupt(photo, f"its header says {height}x{width} pixels, but it has others")
    if part:
        top, left, bottom, right = part
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(f"part {part} is not inside of image {photo.name} of {height}x{width} pixels")
        top, left, bottom, right = (round(side / shrink) for side in part)
        top, left = min(top, image.shape[0] - 1), min(left, image.shape[1] - 1)  # at least one pixel remains
        image = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    return image


def decode_labels(photo: Photo) -> np.ndarray:
    """A label map as it is stored, uint8 `[H, W]`: grey of up to 8 bits, or the indices of a palette.

    It is not turned by an EXIF orientation, as programs for annotation write none.

    Raises:
      CorruptImage: the file ends too early, is no PNG, or has colours or more bits instead of labels.
    """
    with _opened(photo) as image:
        if image.format != "PNG":
            raise CorruptImage(f"label map {photo.name} is a {image.format}, not a PNG")
        if image.mode not in ("L", "P", "1"):
            kind = "16 bits" if image.mode[0] == "I" else f"colors ({image.mode})"
            raise CorruptImage(f"label map {photo.name} has {kind}; it must be grey of 8 bits, or have a palette")
        scale = {2: 85, 4: 17}.get(photo.data[24], 1) if image.mode == "L" else 1  # Pillow widens grey to 0 to 255
        return np.asarray(image, np.uint8) // scale


def _read(photo, shrink):
    """Height and width of the upright image, its pixels, and the factor that divided their sides.

    Without `shrink`, the pixels are not decoded. All come from one orientation, that of the file.
    """
    if not photo.data:
        raise _corrupt(photo, "it is empty")
    orientation = metadata.orientation(photo.data)
    stored = _jpeg_size(photo.data)
    pixels = _decode_jpeg(photo, stored, shrink) if stored and shrink else None
    if not stored or (shrink and pixels is None):
        with _opened(photo) as image:
            if orientation is None:
                orientation = metadata.orientation_of(image.info.get("exif", b""), image.info.get("xmp", b""))
            stored = image.height, image.width
            if shrink:
                pixels, shrink = _pixels(image, photo, shrink)
    upright = stored if orientation < 5 else stored[::-1]
    return upright, None if pixels is None else _upright(pixels, orientation), shrink


def _upright(pixels, orientation):
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _jpeg_size(data):
    """Stored height and width of an RGB or grey JPEG; None for every other file."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colors in ("YCbCr", "RGB", "Gray") else None


def _decode_jpeg(photo, full_size, shrink):
    """The whole image as it is stored; None if libjpeg warns of anything."""
    height, width = (-(-side // shrink) if shrink > 1 else 0 for side in full_size)  # 0: full size
    try:
        colors = "GRAY" if photo.channels == 1 else "RGB"
        return simplejpeg.decode_jpeg(photo.data, colors, min_height=height, min_width=width, strict=True)
    except MemoryError as error:
        raise _too_large(photo, full_size) from error
    except ValueError:
        return None


@contextlib.contextmanager
def _opened(photo: Photo) -> Iterator[Image.Image]:
    """Pillow's image without metadata, not loaded yet; an error in the body, too, becomes a CorruptImage."""
    tags = Tags(photo.data)
    if tags.unscaled:
        raise _unscaled(photo, tags.unscaled)
    if tags.has_deep_planes:
        raise _unread(photo, f"uncompressed {tags.bits}-bit channels in separate planes, which Pillow misreads")
    image = None
    try:
        with _PIXEL_LIMIT.lifted(), Image.open(io.BytesIO(metadata.without(photo.data))) as image:
            yield image
    except CorruptImage:
        raise
    except Exception as error:  # Pillow's formats raise many types for files that they cannot read
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise _too_large(photo, image and image.size) from error
        raise _corrupt(photo, _reason(photo.data, error, image is not None)) from error


class _PixelLimit:
    """Pillow's limit of pixels, which protects servers from strangers' images; the user's own may be larger."""

    def __init__(self):
        self._lock, self._readers = threading.Lock(), 0

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """No limit until the last of the threads that are inside has left."""
        with self._lock:
            if not self._readers:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    Image.MAX_IMAGE_PIXELS = self._limit


_PIXEL_LIMIT = _PixelLimit()


def _pixels(image, photo, shrink):
    """Array of a Pillow image as it is stored, and the factor that divided its sides: 1 unless it is a JPEG."""
    small = image.width // shrink, image.height // shrink
    shrink = shrink if min(small) and image.draft(None, small) else 1
    tags = Tags(photo.data)
    is_deep = image.mode[0] in "IF"
    if image.mode == "F" or (is_deep and image.format not in _16_BITS):
        raise _unscaled(photo, {"F": "32-bit floats", "I": "32-bit integers"}.get(image.mode, "16-bit integers"))
    if is_deep:
        samples = np.asarray(image)
        samples = samples >> (tags.bits - 8 if tags.bits > 8 else 8)
        image = Image.fromarray((255 - samples if tags.zero_is_white else samples).astype(np.uint8))
    if image.mode in ("P", "PA", "RGBa", "La"):  # these become RGB by way of their alpha only, or with a warning
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode == "LAB":
        raise CorruptImage(f"image {photo.name} has CIELAB colors; convert it to RGB")
    image = image.convert("L" if photo.channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, photo.channels), shrink


def _too_large(photo, sides):
    amount = f"{math.prod(sides):,} pixels" if sides else f"{len(photo.data):,} bytes"  # None before the header is read
    return CorruptImage(f"image {photo.name} is too large for the memory ({amount})")


def _unscaled(photo, kind):
    return _unread(photo, f"{kind}, whose range from black to white is unknown")


def _unread(photo, what):
    return CorruptImage(f"image {photo.name} has {what}; convert it to a PNG of 8 or 16 bits")


def _corrupt(photo, reason):
    return CorruptImage(f"image {photo.name} is corrupt ({reason})")


def _reason(data, error, is_identified):
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; git lfs pull gets the image"
    if data[4:8] == b"ftyp" and data[8:11] != b"avi" and data[8:12].strip().isalnum():  # HEIC, videos
        return f"it is a file of type {data[8:12].decode('ascii', 'replace').strip()}, which Pillow does not read"
    if any(text in str(error).lower() for text in ("truncated", "not enough image data")) or metadata.is_cut_off(data):
        return "it ends too early"
    if is_identified:
        return "its pixels cannot be decoded"
    start = data[:16].ljust(16, b"\0")
    kind = next((kind for kind, (_, accepts) in Image.OPEN.items() if accepts and accepts(start) is True), None)
    return f"its {kind} header is broken, or of a kind that Pillow does not read" if kind else "it is no image"
