import io

import numpy as np
import pytest
from PIL import Image

from acmix_jax.data import augment
from acmix_jax.data.photos import Photo
from acmix_jax.data.rand_augment import OPERATIONS, rand_augment
from tests.photographs import encoded, photographs


def test_shift_moves_and_flip_mirrors():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 1
    rng = np.random.default_rng(0)
    places = {tuple(np.argwhere(augment.shift(image, rng, 1))[0][:2]) for _ in range(200)}
    assert places == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}
    image[2, 0] = 1
    flips = [augment.flip(image, rng)[2, 4, 0] for _ in range(200)]
    assert 60 < sum(flips) < 140


def test_random_parts_have_the_areas_and_shapes_asked_for(monkeypatch):
    boxes = []
    monkeypatch.setattr(augment, "_resize_part", lambda image, box, *_: boxes.append(box))
    rng, image = np.random.default_rng(0), np.zeros((300, 400, 3), np.uint8)
    for _ in range(2000):
        augment.random_resized_crop(image, rng, 224, (0.08, 1.0), "bilinear")
    top, left, bottom, right = np.array(boxes).T
    area, ratio = (bottom - top) * (right - left) / image[..., 0].size, (right - left) / (bottom - top)
    assert 0.078 < area.min() < 0.1
    assert 0.9 < area.max() <= 1
    small = area[area < 0.55]  # uniform where every shape fits into 4:3
    np.testing.assert_allclose(np.quantile(small, [0.25, 0.5, 0.75]), np.linspace(0.08, 0.55, 5)[1:-1], atol=0.02)
    assert 0.73 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.37
    assert abs(np.log(ratio[area < 0.55]).mean()) < 0.02
    assert (top >= 0).all() & (left >= 0).all() & (bottom <= 300).all() & (right <= 400).all()
    assert 0 < np.mean(left == 0) < 0.2  # places all over the image


@pytest.mark.parametrize(("shape", "part"), [((20, 300), (0, 137, 20, 164)), ((300, 20), (137, 0, 164, 20))])
def test_an_image_too_narrow_for_any_part_gives_its_middle(monkeypatch, shape, part):
    boxes = []
    monkeypatch.setattr(augment, "_resize_part", lambda image, box, *_: boxes.append(box))
    augment.random_resized_crop(np.zeros((*shape, 3), np.uint8), np.random.default_rng(0), 8, (1.0, 1.0), "bilinear")
    np.testing.assert_allclose(boxes, [part], atol=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(375, 500), (300, 224), (100, 90)])
def test_evaluation_is_that_of_torchvision(shape, interpolation):
    """Resize(256), CenterCrop(224), as its documentation and Pillow define them."""
    image = photographs()["flower"][: shape[0], : shape[1]]
    short = min(shape)
    height, width = (int(256 * side / short) for side in shape)
    resized = Image.fromarray(image).resize((width, height), getattr(Image.Resampling, interpolation.upper()))
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    wanted = np.asarray(resized)[top : top + 224, left : left + 224]
    difference = np.abs(augment.center_crop(image, 224, 256, interpolation).astype(int) - wanted)
    assert np.quantile(difference, 0.999) <= 1  # it rounds in between, too
    assert difference.max() <= 5
    assert difference.mean() < 0.2


def test_decoding_at_half_size_shows_the_same():
    file = io.BytesIO()
    Image.fromarray(photographs()["china"]).save(file, "JPEG", quality=95)
    image = np.asarray(Image.open(file))
    photo = Photo(file.getvalue(), "china.jpg")
    for seed in range(5):
        small, full = (
            augment.random_resized_crop(x, np.random.default_rng(seed), 48, (0.3, 1.0), "bilinear").astype(float)
            for x in (photo, image)
        )
        assert small.shape == (48, 48, 3)
        assert np.abs(small - full).mean() < 4  # its borders are at whole pixels of the smaller image


@pytest.mark.parametrize("size", [(600, 899), (128, 192)])
@pytest.mark.parametrize("encode", [False, True])
def test_a_part_of_the_resized_image_is_cropped_from_the_whole(size, encode):
    image = photographs()["china"]
    if encode:
        image = Photo(encoded(Image.fromarray(image)), "china.jpg")
    top, left, height, width = 17, 40, 64, 96
    part = augment.resize_part(image, size, (top, left, height, width), "bilinear")
    whole = augment.resize_part(image, size, (0, 0, *size), "bilinear")[top : top + height, left : left + width]
    assert part.dtype == np.uint8
    np.testing.assert_allclose(part, whole.astype(int), atol=1)


@pytest.mark.parametrize("orientation", [1, 2])
def test_a_jpeg_shrunk_on_decoding_stays_in_its_place(orientation):
    """In a ramp, a place is a value; 513 is a multiple of 8 and one more."""
    ramp = np.tile(np.linspace(0, 255, 513).round().astype(np.uint8)[:, None], (513, 1, 3))
    exif = Image.Exif()
    exif[274] = orientation
    photo = Photo(encoded(Image.fromarray(ramp), quality=100, exif=exif), "ramp.jpg")
    ramp = ramp if orientation == 1 else augment.mirror(ramp)
    small, full = (augment.resize_part(image, (64, 64), (0, 0, 64, 64), "bilinear") for image in (photo, ramp))
    np.testing.assert_allclose(small, full.astype(int), atol=1)  # a pixel is 4 steps of the ramp


def test_a_part_as_large_as_the_image_stays_as_it_is():
    image = photographs()["china"]
    np.testing.assert_array_equal(augment.resize_part(image, (427, 640), (0, 0, 427, 640), "bilinear"), image)
    np.testing.assert_array_equal(augment.resize_part(image, (427, 640), (1, 2, 9, 8), "bilinear"), image[1:10, 2:10])


def test_rand_augment_applies_none_one_or_two_of_fifteen(monkeypatch):
    applied = []
    names = list(OPERATIONS)
    assert len(names) == 15
    for name in names:
        monkeypatch.setitem(
            OPERATIONS, name, lambda x, level, sign, outside, name=name: applied.append((name, level, sign)) or x
        )
    rng, counts = np.random.default_rng(0), []
    for _ in range(1000):
        before = len(applied)
        rand_augment(np.zeros((8, 8, 3), np.uint8), rng, (0, 0, 0), Image.Resampling.BICUBIC)
        counts.append(len(applied) - before)
    found, levels, signs = zip(*applied, strict=True)
    assert np.allclose(np.bincount(counts) / 1000, [0.25, 0.5, 0.25], atol=0.05)
    assert np.allclose([found.count(name) / len(found) for name in names], 1 / 15, atol=0.03)
    assert abs(np.mean(levels) - 0.9) < 0.01
    assert abs(np.std(levels) - 0.05) < 0.01
    assert max(levels) <= 1
    assert abs(np.mean(signs)) < 0.1


def apply(name, level, sign=1):
    outside = {"resample": Image.Resampling.BICUBIC, "fillcolor": (1, 2, 3)}
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None], (1, 64))
    return np.asarray(OPERATIONS[name](Image.fromarray(np.stack([image] * 3, -1)), level, sign, outside))


def test_operations_at_magnitude_nine():
    """Against timm's definitions, on a ramp from 0 to 252 down the image."""
    ramp = np.arange(0, 256, 4)
    np.testing.assert_array_equal(apply("invert", 0.9)[:, 0, 0], 255 - ramp)
    np.testing.assert_array_equal(apply("posterize", 0.9)[:, 0, 0], ramp & 0b10000000)  # 4 - int(3.6) bits
    np.testing.assert_array_equal(apply("posterize", 1.0)[:, 0, 0], 0)
    np.testing.assert_array_equal(apply("solarize", 0.9)[:, 0, 0], np.where(ramp < 26, ramp, 255 - ramp))
    np.testing.assert_array_equal(apply("solarize_add", 0.9)[:, 0, 0], np.where(ramp < 128, ramp + 99, ramp))
    np.testing.assert_allclose(apply("brightness", 0.9, -1)[:, 0, 0], 0.19 * ramp, atol=1)
    np.testing.assert_allclose(apply("translate_y", 0.5)[:40, 0, 0], ramp[14:54], atol=4)  # 0.45 x 0.5 x 64 pixels
    assert (apply("translate_x", 0.5)[:, -10:] == (1, 2, 3)).all()
    assert (apply("shear_x", 0.9)[-1, -10:] == (1, 2, 3)).all()
    assert (apply("rotate", 0.9)[0, 0] == (1, 2, 3)).all()
    for name in ("color", "contrast", "sharpness", "auto_contrast", "equalize"):
        assert apply(name, 0.9).shape == (64, 64, 3)
