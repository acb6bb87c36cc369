import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from acmix_jax.data import photos
from acmix_jax.data.photos import CorruptImage, Photo
from tests.photographs import photographs


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(piece, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(piece, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    photo = Photo(data, "turned.jpg")
    assert photos.size(photo) == wanted.shape[:2]
    assert np.abs(photos.decode(photo).astype(int) - wanted).max() <= 3
    assert photos.decode(photo, shrink=2).shape == (-(-wanted.shape[0] // 2), -(-wanted.shape[1] // 2), 3)


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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "it ends too early"),
        (lambda data: b"", "it is empty"),
        (lambda data: b"<html>404</html>", "it is no image"),
    ],
)
def test_corrupt_images_are_named(piece, damage, reason):
    thumbnail = encoded(piece.resize((32, 32)))  # a whole JPEG inside, whose end is not that of the file
    photo = Photo(damage(encoded(piece, exif=b"Exif\0\0" + thumbnail)), "dir/0007.JPEG")
    for part in (None, (0, 0, 10, 10)):
        with pytest.raises(CorruptImage, match=rf"image dir/0007.JPEG is corrupt \({reason}\)"):
            photos.decode(photo, part)
