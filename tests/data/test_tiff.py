import struct

import pytest

from acmix_jax.data.tiff import ORIENTATION, Tags
from tests.data.files import tiff

FORMS = {"<": (b"II*\0", b"II+\0"), ">": (b"MM\0*", b"MM\0+")}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [(1, "B", 200), (3, "H", 60000), (4, "I", 2**32 - 1), (6, "b", -5), (8, "h", -6), (9, "i", -7)],
)
@pytest.mark.parametrize("is_big", [False, True])
def test_integers_of_each_type_are_read(order, kind, form, value, is_big):
    content = struct.pack(order + form, value).ljust(8 if is_big else 4, b"\0")
    if is_big:
        data = FORMS[order][1] + struct.pack(order + "HHQQHHQ", 8, 0, 16, 1, ORIENTATION, kind, 1) + content + bytes(8)
    else:
        data = FORMS[order][0] + struct.pack(order + "IHHHI", 8, 1, ORIENTATION, kind, 1) + content + bytes(4)
    assert Tags(data).integers(ORIENTATION) == (value,)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0+" + b"\xff" * 12])
def test_what_is_no_tiff_has_no_tags(data):
    tags = Tags(data)
    assert (tags.integers(256), tags.bits, tags.zero_is_white, tags.unscaled) == ((), 1, False, "")


def test_tags_before_the_end_count():
    data = tiff(bytes(12), (4, 3))
    directory = struct.unpack_from("<I", data, 4)[0]
    cut = data[: directory + 2 + 2 * 12 + 5]  # in the third of them
    assert Tags(cut).integers(256) == (4,)
    assert Tags(cut).integers(257) == (3,)
    assert Tags(cut).is_cut_off
    assert not Tags(data).is_cut_off


def test_a_tag_of_many_values_beyond_the_end_is_absent():
    data = tiff(bytes(12), (4, 3), more=[(700, 1, 2**31, struct.pack("<I", 4))])
    assert Tags(data).content(700) == b""
    assert not Tags(data).is_cut_off  # its pixels are all there


@pytest.mark.parametrize(
    ("bits", "planes", "compression", "expected"),
    [(16, 2, 1, True), (16, 2, 8, False), (8, 2, 1, False), (16, 1, 1, False)],
)
def test_only_planes_that_pillow_misreads_are_told(bits, planes, compression, expected):
    data = tiff(bytes(24), (4, 3), bits, more=[(284, 3, 1, struct.pack("<HH", planes, 0))])
    uncompressed = struct.pack("<HHIHH", 259, 3, 1, 1, 0)
    tags = Tags(data.replace(uncompressed, struct.pack("<HHIHH", 259, 3, 1, compression, 0)))
    assert tags.has_deep_planes == expected


def test_pixels_keep_their_tags_and_lose_all_others():
    data = tiff(bytes(12), (4, 3), bits=8, more=[(274, 3, 1, struct.pack("<HH", 6, 0)), (305, 2, 3, b"us\0\0")])
    bare = Tags(Tags(data).without_metadata())
    assert [bare.integers(tag) for tag in (256, 257, 258, 259, 273, 279)] == [(4,), (3,), (8,), (1,), (20,), (12,)]
    assert [bare.integers(274), bare.content(305)] == [(), b""]
