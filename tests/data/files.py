"""Builds image files that Pillow does not write."""

import struct
import zlib


def tiff(
    pixels: bytes, size: tuple[int, int], bits=8, sample_format=1, channels=1, photometric=None, order="<", more=()
) -> bytes:
    """An uncompressed TIFF of one strip; `size` is width and height, `more` are (tag, type, count, four bytes)."""

    def short(value):
        return struct.pack(order + "HH", value, 0)

    pixels += bytes(len(pixels) % 2)
    start, strip = 8 + 12 + len(pixels), 8 + 12

    def each(value, place):  # of each channel; three do not fit into the entry
        return short(value) if channels == 1 else struct.pack(order + "I", place)

    photometric = photometric if photometric is not None else 1 if channels == 1 else 2
    entries = [
        (256, 3, 1, short(size[0])), (257, 3, 1, short(size[1])), (258, 3, channels, each(bits, 8)),
        (259, 3, 1, short(1)), (262, 3, 1, short(photometric)), (273, 4, 1, struct.pack(order + "I", strip)),
        (277, 3, 1, short(channels)), (278, 3, 1, short(size[1])), (279, 4, 1, struct.pack(order + "I", len(pixels))),
        (339, 3, channels, each(sample_format, 14)), *more,
    ]  # fmt: skip
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    values = struct.pack(order + "6H", *[bits] * 3, *[sample_format] * 3)
    directory = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return header + values + pixels + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
