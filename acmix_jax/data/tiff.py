"""Tags of a TIFF file, or of EXIF, which has the same form; what is broken in one tag does not hide the others."""

import contextlib
import struct

ORIENTATION, XMP = 274, 700
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 259, 262, 284, 339
_PARTS = (273, 279), (324, 325)  # tags of the offsets and the lengths of strips and of tiles
_OF_PIXELS = {  # what a decoder needs; all others are metadata
    256, 257, _BITS, 277, 338,  # width, height, samples of a pixel and those beyond the colors
    _PHOTOMETRIC, 320, 332, 529, 530, 531, 532,  # what samples mean: colors, palette, inks, YCbCr
    _COMPRESSION, 266, 292, 293, 317, 347, *range(512, 522), 50674, 0xBC01,  # how they are coded
    _PLANES, 278, 322, 323, *sum(_PARTS, ()),  # where samples lie: rows of a strip, sizes of a tile
}  # fmt: skip
_VERSIONS = (b"*\0", b"\0*", b"+\0", b"\0+")  # +: BigTIFF
_ORDERS = {b"II": "<", b"MM": ">"}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}  # struct's, by type
_NUMBERS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}  # by sample format


def is_tiff(data: bytes) -> bool:
    """True if `data` begins as a TIFF does."""
    return data[:2] in _ORDERS and data[2:4] in _VERSIONS


class Tags:
    """Tags of the first image in `data`; none if `data` is no TIFF."""

    def __init__(self, data: bytes):
        self._data, self._entries = data, {}
        self._order = _ORDERS[data[:2]] if is_tiff(data) else None
        is_big = b"+" in data[2:4]
        self._number, self._count, self._inline = ("Q", "Q", 8) if is_big else ("I", "H", 4)
        self._is_whole = False
        if self._order:
            with contextlib.suppress(struct.error, OverflowError):  # cut off: what comes before counts
                self._read_entries()
                self._is_whole = True

    def _read_entries(self):
        (start,) = self._unpack(self._number, self._inline)
        (count,) = self._unpack(self._count, start)
        first, form = start + struct.calcsize("<" + self._count), f"HH{self._number}{self._inline}s"
        size = struct.calcsize("<" + form)
        for at in range(first, first + count * size, size):
            tag, kind, length, _ = self._unpack(form, at)
            self._entries[tag] = kind, length, self._data[at : at + size]

    def _unpack(self, form, at):
        return struct.unpack_from(self._order + form, self._data, at)

    def content(self, tag: int) -> bytes:
        """Value of a tag as it is stored; empty if it is absent, cut off or not of an integer type."""
        kind, length, entry = self._entries.get(tag, (0, 0, b""))
        size = length * struct.calcsize("<" + _LETTERS.get(kind, ""))
        if size <= self._inline:
            return entry[len(entry) - self._inline :][:size]
        (start,) = struct.unpack(self._order + self._number, entry[-self._inline :])
        return self._data[start : start + size] if start + size <= len(self._data) else b""

    def integers(self, tag: int) -> tuple[int, ...]:
        """Values of a tag; none if it is absent, cut off or not of an integer type."""
        letter, content = _LETTERS.get(self._entries.get(tag, (0,))[0]), self.content(tag)
        return tuple(value for (value,) in struct.iter_unpack(self._order + letter, content)) if content else ()

    @property
    def bits(self) -> int:
        """Bits of each sample."""
        return max(self.integers(_BITS), default=1)

    @property
    def zero_is_white(self) -> bool:
        """True if grey is stored inverted: zero is white."""
        return self.integers(_PHOTOMETRIC) == (0,)

    @property
    def unscaled(self) -> str:
        """Kind of the samples, such as "32-bit floats", if their range is unknown; empty otherwise."""
        sample_format = max(self.integers(_SAMPLE_FORMAT), default=1)
        if self.bits > 64 or (self.bits <= 16 and sample_format not in _NUMBERS):
            return ""
        return f"{self.bits}-bit {_NUMBERS.get(sample_format, 'integers')}"

    @property
    def has_deep_planes(self) -> bool:
        """True for uncompressed samples of more than 8 bits in a plane for each channel, which Pillow misreads."""
        return self.bits > 8 and self.integers(_PLANES) == (2,) and self.integers(_COMPRESSION) in ((), (1,))

    @property
    def is_cut_off(self) -> bool:
        """True if tags of pixels, or pixels, lie beyond the end of the file."""
        described = [tag for tag, (kind, length, _) in self._entries.items() if kind in _LETTERS and length]
        is_tag_absent = any(tag in _OF_PIXELS and not self.content(tag) for tag in described)
        parts = [zip(self.integers(offsets), self.integers(lengths), strict=False) for offsets, lengths in _PARTS]
        is_part_absent = any(sum(part) > len(self._data) for zipped in parts for part in zipped)
        return not self._is_whole or is_tag_absent or is_part_absent

    def without_metadata(self) -> bytes:
        """The same file, of which only the first image and what describes its pixels is found.

        Grey of more than 8 bits whose zero is white is said to be black there, as Pillow does not invert it.
        """
        entries = {tag: entry for tag, (_, _, entry) in self._entries.items() if tag in _OF_PIXELS}
        if self.bits > 8 and self.zero_is_white:
            entry = struct.pack(f"{self._order}HH{self._number}H", _PHOTOMETRIC, 3, 1, 1)
            entries[_PHOTOMETRIC] = entry.ljust(len(entries[_PHOTOMETRIC]), b"\0")
        start = len(self._data) + len(self._data) % 2
        header = self._data[: self._inline] + struct.pack(self._order + self._number, start)
        count = struct.pack(self._order + self._count, len(entries))
        rest, padding = memoryview(self._data)[len(header) :], bytes(len(self._data) % 2)
        return b"".join([header, rest, padding, count, *entries.values(), bytes(self._inline)])
