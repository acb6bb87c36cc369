"""Metadata of encoded images: the orientation, and the file without it.

Pixels are decoded from a file without metadata, so that metadata never decides whether they can be read. Knows JPEG,
PNG, WebP and TIFF; all other formats stay as they are.
"""

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from acmix_jax.data.tiff import ORIENTATION, XMP, Tags, is_tiff

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_AVIF_EXIF = re.compile(rb"(infe[\2\3].{7,9})Exif", re.DOTALL)  # type of an item
_LARGEST_TEXT = 2**24  # bytes of an inflated text in a PNG


class _Block(NamedTuple):
    """Place of a segment of a JPEG, or of a chunk of a PNG or WebP, with its header."""

    kind: bytes
    start: int
    end: int


def orientation(data: bytes) -> int | None:
    """EXIF orientation of an image, 1 (upright) to 8; 1 if it has none; None for a format that is not known here."""
    if _is_jpeg(data):
        bodies = [data[block.start + 4 : block.end] for block in _jpeg_blocks(data) if block.kind == b"\xe1"]
        exif = b"".join(body[6:] for body in bodies if body.startswith(b"Exif\0\0"))
        return orientation_of(exif, b"".join(body for body in bodies if body.startswith(b"http://ns.adobe.com/xap")))
    if _is_png(data):
        return orientation_of(*_png_metadata(data))
    if _is_webp(data):
        blocks = (block for block in _webp_blocks(data) if block.kind in (b"EXIF", b"XMP "))
        bodies = {block.kind: data[block.start + 8 : block.end] for block in blocks}
        return orientation_of(bodies.get(b"EXIF", b""), bodies.get(b"XMP ", b""))
    return orientation_of(data, Tags(data).content(XMP)) if is_tiff(data) else None


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """Orientation that EXIF says, or else XMP; what cannot be understood counts as absent."""
    values = Tags(exif.removeprefix(b"Exif\0\0")).integers(ORIENTATION)
    if not values and (found := _XMP_ORIENTATION.search(xmp)):
        values = (int(found[1]),)
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def without(data: bytes) -> bytes:
    """The file without what its pixels do not need."""
    if _is_jpeg(data):
        return _without_blocks(data, [block for block in _jpeg_blocks(data) if _is_jpeg_metadata(block)])
    if _is_png(data):  # a lower case letter: not critical
        return _without_blocks(data, [block for block in _png_blocks(data) if block.kind[0] & 32])
    if _is_webp(data):
        return _webp_without(data)
    if is_tiff(data):
        return Tags(data).without_metadata()
    return _AVIF_EXIF.sub(rb"\1none", data) if data[4:10] == b"ftypav" else data


def is_cut_off(data: bytes) -> bool:
    """True if the file is shorter than it says itself."""
    if _is_jpeg(data):
        return b"\xff\xd9" not in data[-64:]
    if _is_png(data):
        return all(block.kind != b"IEND" for block in _png_blocks(data))
    if _is_webp(data):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[4:8] in (b"ftyp", b"jP  "):
        return _end_of_boxes(data) > len(data)
    return is_tiff(data) and Tags(data).is_cut_off


def _is_jpeg(data):
    return data.startswith(b"\xff\xd8")


def _is_png(data):
    return data.startswith(b"\x89PNG\r\n\x1a\n")


def _is_webp(data):
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _jpeg_blocks(data) -> Iterator[_Block]:
    """The segments before the compressed pixels."""
    at = 2
    while data[at : at + 1] == b"\xff" and (kind := data[at + 1 : at + 2]) not in (b"\xda", b"\xd9", b""):
        if kind == b"\xff":  # fills
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield _Block(kind, at, end)
        at = end


def _is_jpeg_metadata(block):
    """True for comments and application segments, except for APP0 and APP14 that are long enough to tell the colors."""
    tells_colors = block.kind in (b"\xe0", b"\xee") and block.end - block.start >= 16
    return block.kind == b"\xfe" or (b"\xe0" <= block.kind <= b"\xef" and not tells_colors)


def _png_blocks(data) -> Iterator[_Block]:
    at, kind = 8, b""
    while kind != b"IEND" and len(data) >= at + 8:
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield _Block(kind, at, end)
        at = end


def _webp_blocks(data) -> Iterator[_Block]:
    at, end_of_all = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while end_of_all >= at + 8:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield _Block(data[at : at + 4], at, end)
        at = end


def _end_of_boxes(data):
    """End of the boxes of an AVIF or JPEG 2000."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at += size or len(data)  # 0: up to the end of the file
    return at


def _without_blocks(data, blocks):
    kept, at = [], 0
    for block in blocks:
        kept.append(data[at : block.start])
        at = block.end
    return b"".join([*kept, data[at:]]) if kept else data


def _webp_without(data):
    blocks = list(_webp_blocks(data))
    kept = [block for block in blocks if block.kind not in (b"EXIF", b"XMP ", b"ICCP")]
    if kept == blocks:
        return data
    chunks = [data[block.start : block.end] for block in kept]
    for i, block in enumerate(kept):
        if block.kind == b"VP8X":  # its flags say what follows: animation and alpha
            chunks[i] = chunks[i][:8] + bytes([chunks[i][8] & 0b10010]) + chunks[i][9:]
    size = 4 + sum(map(len, chunks))
    return b"".join([b"RIFF", (size + size % 2).to_bytes(4, "little"), b"WEBP", *chunks, bytes(size % 2)])


def _png_metadata(data):
    """EXIF and XMP."""
    found = {}
    for kind, start, end in _png_blocks(data):
        body = data[start + 8 : end - 4] if kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") else b""
        if kind == b"eXIf":
            found[b"exif"] = body
        elif body:
            key, _, text = body.partition(b"\0")
            if key in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
                found[key] = _png_text(kind, text)
    exif = found.get(b"exif") or _raw_profile(found.get(b"Raw profile type exif", b""))
    return exif, found.get(b"XML:com.adobe.xmp", b"")


def _png_text(kind, text):
    is_deflated = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    text = {b"tEXt": text, b"zTXt": text[1:], b"iTXt": text[2:].split(b"\0", 2)[-1]}[kind]
    try:
        return zlib.decompressobj().decompress(text, _LARGEST_TEXT) if is_deflated else text
    except zlib.error:
        return b""


def _raw_profile(text):
    """EXIF that ImageMagick wrote as text: a name, a length and hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
