import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from acmix_jax.data import photos
from acmix_jax.data.photos import CorruptImage, Photo
from tests.data.files import chunk, tiff
from tests.photographs import encoded, photographs


@pytest.fixture(scope="module")
def piece():
    return Image.fromarray(photographs()["china"][100:261, 200:421])


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P")]
)
def test_every_kind_becomes_rgb(piece, kind, mode):
    """Whatever the name says: ImageNet has a PNG and some CMYK files among its JPEGs."""
    data = encoded(piece.convert(mode), kind)
    found = photos.decode(Photo(data, "n02105855_2933.JPEG"))
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= (0 if kind == "PNG" else 3)  # two decoders round differently


def test_a_grey_data_set_stays_grey(piece):
    grey = piece.convert("L")
    found = photos.decode(Photo(encoded(grey, "PNG"), "grey.png", channels=1))
    np.testing.assert_array_equal(found, np.asarray(grey)[..., None])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(piece, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(piece.resize((61, 40)), kind, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    photo = Photo(data, "turned")
    assert photos.size(photo) == wanted.shape[:2]
    assert np.abs(photos.decode(photo).astype(int) - wanted).max() <= (3 if kind == "JPEG" else 0)
    np.testing.assert_array_equal(photos.decode(photo, (5, 7, 33, 29)), photos.decode(photo)[5:33, 7:29])
    if kind == "JPEG":
        assert photos.decode(photo, shrink=2).shape == (-(-wanted.shape[0] // 2), -(-wanted.shape[1] // 2), 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 11, 65535])
def test_an_orientation_that_does_not_exist_is_upright(piece, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Photo(encoded(piece, kind, exif=exif), "turned")
    assert photos.size(photo) == photos.decode(photo).shape[:2] == (161, 221)


@pytest.mark.parametrize("part", [(0, 0, 162, 10), (-1, 0, 10, 10), (0, 200, 10, 222), (10, 0, 10, 9), (9, 9, 8, 12)])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_part_outside_is_an_error(piece, part, shrink):
    with pytest.raises(ValueError, match=r"part .* is not inside of image piece.jpg of 161x221 pixels"):
        photos.decode(Photo(encoded(piece), "piece.jpg"), part, shrink)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_narrow_images_shrink_too(mode, shrink):
    for height, width in ((1, 30), (31, 2), (3, 3), (9, 7), (15, 23)):
        photo = Photo(encoded(Image.new(mode, (width, height))), "narrow.jpg")
        assert photos.decode(photo, shrink=shrink).shape[:2] in {
            (height, width), (-(-height // shrink), -(-width // shrink)),
        }  # fmt: skip
        assert photos.decode(photo, (height - 1, width - 1, height, width), shrink).shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"exif": b"Exif\0\0"}])
def test_a_part_is_what_the_whole_has_there(piece, kind, options):
    photo = Photo(encoded(piece, kind, **options), "piece.jpg")
    part = photos.decode(photo, (30, 50, 91, 173))
    np.testing.assert_array_equal(part, photos.decode(photo)[30:91, 50:173])
    half = photos.decode(photo, (30, 50, 90, 170), shrink=2)
    assert half.shape == ((30, 60, 3) if kind == "JPEG" else (60, 120, 3))


def test_shrinking_averages(piece):
    photo = Photo(encoded(piece, quality=95), "piece.jpg")
    full, half = photos.decode(photo).astype(float), photos.decode(photo, shrink=2).astype(float)
    blocks = full[:160, :220].reshape(80, 2, 110, 2, 3).mean((1, 3))
    assert np.abs(half[:80, :110] - blocks).mean() < 2


def to_12_bits(array):
    """Two numbers in three bytes."""
    first, second = array[..., ::2].astype(int), array[..., 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()


RAMP = np.tile(np.linspace(0, 1, 64), (16, 1))
BITS_16 = (RAMP * 65535).astype("<u2")
DEEP = {
    "PNG": encoded(Image.fromarray(BITS_16), "PNG"),
    "JPEG 2000": encoded(Image.fromarray(BITS_16), "JPEG2000"),
    "PGM of 10 bits": b"P5 64 16 1023 " + (RAMP * 1023).astype(">u2").tobytes(),
    "PPM of 14 bits": b"P6 64 16 16383 " + np.repeat((RAMP * 16383).astype(">u2"), 3).tobytes(),
    "TIFF of 12 bits": tiff(to_12_bits(RAMP * 4095), (64, 16), bits=12),
    "TIFF whose white is 0": tiff((65535 - BITS_16).tobytes(), (64, 16), bits=16, photometric=0),
    "TIFF whose white is 0, big-endian": tiff((65535 - BITS_16).astype(">u2").tobytes(), (64, 16), 16, 1, 1, 0, ">"),
    "TIFF of 12 bits whose white is 0": tiff(to_12_bits(4095 - RAMP * 4095), (64, 16), bits=12, photometric=0),
    "TIFF of colors": tiff(np.repeat(BITS_16, 3).tobytes(), (64, 16), bits=16, channels=3),
    "TIFF, big-endian": tiff(BITS_16.astype(">u2").tobytes(), (64, 16), bits=16, order=">"),
    "TIFF of undefined numbers": tiff(BITS_16.tobytes(), (64, 16), bits=16, sample_format=4),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_become_8_bits(name):
    found = photos.decode(Photo(DEEP[name], name))
    assert found.shape == (16, 64, 3)
    assert np.abs(found - 255 * RAMP[..., None]).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("bits", "sample_format", "kind"),
    [(8, 2, "8-bit signed integers"), (16, 2, "16-bit signed integers"), (32, 1, "32-bit integers"),
     (64, 1, "64-bit integers"), (16, 3, "16-bit floats"), (32, 3, "32-bit floats"), (64, 3, "64-bit floats")],
)  # fmt: skip
def test_numbers_of_unknown_range_are_refused(order, channels, bits, sample_format, kind):
    data = tiff(bytes(8 * 64 * 3), (8, 8), bits, sample_format=sample_format, channels=channels, order=order)
    for action in (photos.size, photos.decode):
        with pytest.raises(CorruptImage, match=f"^image deep.tif has {kind}, whose range .* is unknown; convert"):
            action(Photo(data, "deep.tif"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "channels"), [(16, 3), (12, 3), (16, 1)])
def test_deep_planes_without_compression_are_refused(order, bits, channels):
    """Pillow takes the bytes of 16-bit samples for samples of 8 bits there."""
    planes = [(284, 3, 1, struct.pack(order + "HH", 2, 0))]
    photo = Photo(tiff(bytes(400), (8, 8), bits, channels=channels, order=order, more=planes), "scan.tif")
    for action in (photos.size, photos.decode):
        with pytest.raises(CorruptImage, match=f"^image scan.tif has uncompressed {bits}-bit channels in separate pl"):
            action(photo)


@pytest.mark.parametrize(("kind", "mode"), [("Pf", "32-bit floats"), ("FITS", "16-bit integers")])
def test_numbers_of_unknown_range_are_refused_in_other_formats(kind, mode):
    cards = ("SIMPLE  =   T", "BITPIX  =  16", "NAXIS   =   2", "NAXIS1  =   8", "NAXIS2  =   8", "END")
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    data = header + bytes(2880) if kind == "FITS" else b"Pf 8 8 -1.0\n" + bytes(256)
    with pytest.raises(CorruptImage, match=f"^image deep has {mode}, whose range"):
        photos.decode(Photo(data, "deep"))


def test_images_of_any_size_are_read_without_a_warning(piece, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow warns beyond it, and refuses beyond its double
    for kind, mode in (("PNG", "RGB"), ("TIFF", "1"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB")):
        photo = Photo(encoded(piece.convert(mode), kind), kind)
        assert photos.size(photo) == photos.decode(photo).shape[:2] == (161, 221)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_share_the_lifted_limit(piece, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    photo = Photo(encoded(piece.resize((20, 20)), "PNG"), "small.png")
    with ThreadPoolExecutor(4) as pool:
        assert {image.shape for image in pool.map(lambda _: photos.decode(photo), range(200))} == {(20, 20, 3)}
    assert Image.MAX_IMAGE_PIXELS == 10


def test_what_does_not_fit_the_memory_is_not_called_corrupt(piece, monkeypatch):
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    message = r"^image scan is too large for the memory \(4,611,686,014,132,420,609 pixels\)$"
    with pytest.raises(CorruptImage, match=message):
        photos.decode(Photo(png, "scan"))

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(photos.Image, "open", fail)
    with pytest.raises(CorruptImage, match=rf"^image scan is too large for the memory \({len(png)} bytes\)$"):
        photos.decode(Photo(png, "scan"))
    monkeypatch.setattr(photos.simplejpeg, "decode_jpeg", fail)
    with pytest.raises(CorruptImage, match=r"^image scan is too large for the memory \(35,581 pixels\)$"):
        photos.decode(Photo(encoded(piece), "scan"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "it ends too early"),
        (lambda data: b"", "it is empty"),
        (lambda data: b"<html>404</html>", "it is no image"),
        (lambda data: bytes(1000), "it is no image"),
        (lambda data: b"a", "it is no image"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer; git lfs pull .*"),
        (lambda data: b"\0\0\0\x18ftypheic" + bytes(99), "it is a file of type heic, which Pillow does not read"),
        (lambda data: data[:2], "it ends too early"),
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "its JPEG header is broken, or .*"),
    ],
)
def test_corrupt_images_are_named(piece, damage, reason):
    thumbnail = encoded(piece.resize((32, 32)))  # a whole JPEG inside, whose end is not that of the file
    photo = Photo(damage(encoded(piece, exif=b"Exif\0\0" + thumbnail)), "dir/0007.JPEG")
    for part in (None, (0, 0, 10, 10)):
        with pytest.raises(CorruptImage, match=rf"image dir/0007.JPEG is corrupt \({reason}\)"):
            photos.decode(photo, part)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "DDS"])
@pytest.mark.parametrize("part", [1 / 20, 1 / 2, 9 / 10])
def test_files_of_each_format_that_end_too_early_say_so(piece, kind, part):
    data = encoded(piece, kind)
    with pytest.raises(CorruptImage, match=r"corrupt \(it ends too early\)"):
        photos.decode(Photo(data[: max(30, int(len(data) * part))], "cut"))


def test_broken_pixels_are_told_from_absent_ones(piece):
    data = encoded(piece, "PNG")
    middle = len(data) // 2
    with pytest.raises(CorruptImage, match=r"corrupt \(its pixels cannot be decoded\)"):
        photos.decode(Photo(data[:middle] + b"flipped" + data[middle + 7 :], "broken.png"))


def test_only_files_are_opened(tmp_path):
    """A pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    reasons = {
        "pipe": "it is a pipe", "folder": "it is a folder", "device": "it is a device",
        "gone": "it is a link that leads nowhere", "circle": "Too many levels of symbolic links",
        "absent": "No such file or directory",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(CorruptImage, match=rf"^image {name} cannot be read \({reason}\)$"):
            photos.read(tmp_path / f"{name}.png", name)


def test_links_to_files_are_followed(piece, tmp_path):
    (tmp_path / "file").write_bytes(encoded(piece))
    (tmp_path / "link.jpg").symlink_to("file")
    assert photos.size(photos.read(tmp_path / "link.jpg", "link")) == (161, 221)
