import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from acmix_jax.data import metadata, photos
from acmix_jax.data.photos import Photo
from tests.data.files import chunk, tiff
from tests.photographs import encoded

PIXELS = np.kron(np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
TURNED = np.rot90(PIXELS, -1)
IMAGE = Image.fromarray(PIXELS)
ORIENTATION_6 = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
XMP_6 = b'<rdf:Description tiff:Orientation="6"/>'
JPEG, PNG = encoded(IMAGE, quality=95), encoded(IMAGE, "PNG")
CMYK = encoded(IMAGE.convert("CMYK"), quality=95)  # simplejpeg decodes the other JPEGs, Pillow these


def segment(body, marker=0xE1):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(*segments, plain=JPEG):
    return plain[:2] + b"".join(segments) + plain[2:]


def png(kind, body, broken_sum=False, last=False):
    inserted = chunk(kind, body)
    if broken_sum:
        inserted = inserted[:-4] + b"\0\0\0\0"
    at = len(PNG) - 12 if last else 33
    return PNG[:at] + inserted + PNG[at:]


def raw_profile(exif):
    """As ImageMagick writes it."""
    return f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()


BROKEN = {
    "JPEG, EXIF of another kind": jpeg(segment(b"Exif\0\0" + b"garbage" * 9)),
    "JPEG, two orientations": jpeg(segment(b"Exif\0\0" + ORIENTATION_6.replace(b"\3\0\1\0", b"\3\0\2\0"))),
    "JPEG, an orientation of 32 text bytes elsewhere": jpeg(
        segment(b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 2, 32, 9999, 0))
    ),
    "JPEG, ICC, MPF and Photoshop cut off": jpeg(
        segment(b"ICC_PROFILE\0", 0xE2), segment(b"MPF\0II", 0xE2), segment(b"Photoshop 3.0\x008BIM", 0xED), plain=CMYK
    ),
    "CMYK JPEG, EXIF that ends in its header": jpeg(segment(b"Exif\0\0II*"), plain=CMYK),
    "CMYK JPEG, EXIF that ends in its tags": jpeg(segment(b"Exif\0\0" + ORIENTATION_6[:14]), plain=CMYK),
    "CMYK JPEG, JFIF and Adobe of a few bytes": jpeg(segment(b"JFIF\0", 0xE0), segment(b"Adobe", 0xEE), plain=CMYK),
    "PNG, text with a broken sum": png(b"tEXt", b"Title\0x", broken_sum=True),
    "PNG, text that inflates to 70 MB": png(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70_000_000))),
    "PNG, ICC profile that does not inflate": png(b"iCCP", b"sRGB\0\0nothing"),
    "PNG, resolution too short": png(b"pHYs", b"12"),
    "PNG, EXIF profile of odd digits": png(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 3\n123")),
    "PNG, animation of no frames": png(b"acTL", bytes(8)),
    "PNG, end cut off": PNG[:-12],
    "PNG, text cut off at the end": png(b"tEXt", bytes(99), last=True)[:-60],
    "WebP, EXIF cut off at the end": encoded(IMAGE, "WEBP", lossless=True, exif=b"Exif\0\0" + ORIENTATION_6)[:-10],
    "WebP, XMP and ICC that are none": encoded(IMAGE, "WEBP", lossless=True, xmp=b"<", icc_profile=b"?"),
    "TIFF, EXIF and GPS beyond the end": tiff(
        PIXELS.tobytes(), (64, 40), channels=3,
        more=[(34665, 4, 1, b"\xff\xff\xff\0"), (34853, 4, 1, b"\xff\xff\0\0"), (700, 4, 90, b"\xff\xff\0\0")],
    ),
    "TIFF, cut off in the last tag": tiff(
        PIXELS.tobytes(), (64, 40), channels=3, more=[(33432, 2, 4, b"me\0\0")]
    )[:-10],
    "TIFF, orientation as text, resolution beyond the end": tiff(
        PIXELS.tobytes(), (64, 40), channels=3,
        more=[(274, 2, 4, b"top\0"), (282, 5, 1, b"\xff\xff\xff\0"), (34675, 7, 99, b"\xff\xff\xff\0")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_counts_as_absent(name):
    assert_read(BROKEN[name], PIXELS)


def assert_read(data, wanted):
    photo = Photo(data, "broken")
    found = photos.decode(photo)
    assert photos.size(photo) == found.shape[:2] == wanted.shape[:2]
    assert np.abs(found - wanted.astype(float)).mean() < 16  # CMYK's rounding


SIDES = {
    "JPEG": jpeg(segment(b"Exif\0\0" + ORIENTATION_6)),
    "JPEG, in two segments": jpeg(segment(b"Exif\0\0" + ORIENTATION_6[:11]), segment(b"Exif\0\0" + ORIENTATION_6[11:])),
    "JPEG, filled": jpeg(b"\xff\xff" + segment(b"Exif\0\0" + ORIENTATION_6)),
    "JPEG, XMP": jpeg(segment(b"http://ns.adobe.com/xap/1.0/\0" + XMP_6)),
    "JPEG, CMYK": jpeg(segment(b"Exif\0\0" + ORIENTATION_6), plain=CMYK),
    "PNG, behind the pixels": png(b"eXIf", ORIENTATION_6, last=True),
    "PNG, a profile as text": png(b"tEXt", b"Raw profile type exif\0" + raw_profile(b"Exif\0\0" + ORIENTATION_6)),
    "PNG, a deflated profile": png(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(ORIENTATION_6))),
    "PNG, XMP": png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_6),
    "PNG, deflated XMP": png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_6)),
    "PNG, beside a broken profile": png(b"iCCP", b"?")[:-12] + chunk(b"eXIf", ORIENTATION_6) + PNG[-12:],
    "WebP": encoded(IMAGE, "WEBP", lossless=True, exif=ORIENTATION_6),
    "WebP, XMP": encoded(IMAGE, "WEBP", lossless=True, xmp=XMP_6.replace(b'="6"', b">6<")),
    "TIFF, LZW": encoded(IMAGE, "TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
    "TIFF, XMP": encoded(IMAGE, "TIFF", tiffinfo={700: XMP_6}),
    "TIFF, beside broken tags": tiff(
        PIXELS.tobytes(), (64, 40), channels=3, order=">",
        more=[(274, 3, 1, b"\0\6\0\0"), (305, 2, 99, b"\0\xff\xff\xff"), (282, 5, 1, b"\0\xff\xff\xff")],
    ),
    "BigTIFF": encoded(IMAGE, "TIFF", big_tiff=True, tiffinfo={274: 6}),
}  # fmt: skip


@pytest.mark.parametrize("name", SIDES)
def test_the_orientation_is_found_wherever_it_is(name):
    assert metadata.orientation(SIDES[name]) == 6
    assert_read(SIDES[name], TURNED)


def test_exif_comes_before_xmp():
    upright = ORIENTATION_6.replace(b"\1\0\0\0\6", b"\1\0\0\0\1")
    assert metadata.orientation_of(upright, XMP_6) == 1


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "TIFF"])
def test_of_several_images_the_first_is_read(kind):
    others = [Image.fromarray(255 - PIXELS)]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_read(encoded(IMAGE, kind, save_all=True, append_images=others, **options), PIXELS)


def test_pixels_lose_nothing_with_the_metadata():
    """Transparency and palettes belong to the pixels, or do not change them."""
    for mode, kind in (("P", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("1", "TIFF"), ("CMYK", "TIFF"), ("P", "TIFF")):
        image = IMAGE.convert(mode)
        if "A" in mode:
            image.putalpha(200)
        data = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(photos.decode(Photo(data, kind)), image.convert("RGBA").convert("RGB"))


def test_whole_files_are_not_cut_off():
    for data in (JPEG, CMYK, PNG, *SIDES.values()):
        assert not metadata.is_cut_off(data)
