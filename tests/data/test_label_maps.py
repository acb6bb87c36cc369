"""Folders of images with label maps as people have them, and what is said of the wrong ones."""

import itertools
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from acmix_jax.config import default_config
from acmix_jax.data import photos, pipeline, segmentation
from acmix_jax.data.classes import palette, read_classes
from acmix_jax.data.label_maps import LabelMapSource
from acmix_jax.data.photos import CorruptImage, Photo
from acmix_jax.errors import UserError
from tests.data.files import chunk
from tests.photographs import encoded, photographs

CLASSES = "name,color\nground,#102030\nsky,\nflower,#FF0000\n"


def write(root, split, name, size=(20, 30), label=1, suffix=".jpg"):
    """An image and its label map, both of one value but for the first pixel of the map."""
    image, label_map = root / "images" / split / f"{name}{suffix}", root / "annotations" / split / f"{name}.png"
    for path in (image, label_map):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photographs()["china"][: size[0], : size[1]]).save(image)
    labels = np.full(size, label, np.uint8)
    labels[0, 0] = 2
    Image.fromarray(labels).save(label_map)
    return image, label_map


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, "training", name)
    write(tmp_path, "validation", "c")
    (tmp_path / "classes.csv").write_text(CLASSES)
    return tmp_path


def test_images_and_label_maps_are_paired_by_name(root):
    source = LabelMapSource(str(root), "train")
    assert (len(source), source.classes, source.num_classes) == (2, ["ground", "sky", "flower"], 3)
    example = source[1]
    assert example["image"].name == source.name(1) == str(root / "images/training/b.jpg")
    assert example["label_map"].name == str(root / "annotations/training/b.png")
    labels = photos.decode_labels(example["label_map"])
    assert (labels.shape, labels[0, 0], labels[5, 5]) == ((20, 30), 2, 1)
    assert source.size_of(1) == (20, 30)
    assert len(LabelMapSource(str(root), "test")) == 1


@pytest.mark.parametrize("profile", [0, 100_000])
def test_the_size_of_a_jpeg_needs_no_more_than_its_start(root, monkeypatch, profile):
    """Unless a long colour profile is in between; turned by its EXIF orientation."""
    exif, noise = Image.Exif(), np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    exif[274] = 6
    image = Image.fromarray(noise)
    image.save(root / "images/training/b.jpg", quality=100, exif=exif, icc_profile=bytes(profile))
    lengths, read = [], photos.read

    def reading(*arguments):
        photo = read(*arguments)
        lengths.append(len(photo.data))
        return photo

    monkeypatch.setattr(photos, "read", reading)
    assert LabelMapSource(str(root), "train").size_of(1) == (300, 200)
    whole = (root / "images/training/b.jpg").stat().st_size
    assert lengths == ([2**16, whole] if profile else [2**16])


def test_files_may_lie_deeper_and_be_of_any_format(root):
    write(root, "training", "street/day/a", suffix=".png")
    write(root, "training", "a.b", suffix=".JPEG")
    source = LabelMapSource(str(root), "train")
    assert [source.name(i)[len(str(root)) :] for i in range(4)] == [
        "/images/training/a.jpg", "/images/training/a.b.JPEG", "/images/training/b.jpg",
        "/images/training/street/day/a.png",
    ]  # fmt: skip
    assert source[3]["label_map"].name.endswith("/annotations/training/street/day/a.png")


def test_what_is_no_image_is_said(root, capsys):
    (root / "images/training/readme.txt").touch()
    (root / "annotations/training/._a.png").touch()
    LabelMapSource(str(root), "train")
    said = capsys.readouterr().err.splitlines()
    assert "images/training: 1 without a suffix that Pillow reads (1 .txt), such as training/readme.txt" in said[0]
    assert "annotations/training: 1 hidden, such as training/._a.png" in said[1]


def opening(root, message):
    with pytest.raises(UserError, match=message) as error:
        LabelMapSource(str(root), "train")
    assert "\n" not in str(error.value)


def test_a_missing_label_map_is_named(root):
    (root / "annotations/training/b.png").unlink()
    opening(root, r"^1 images in .*/images/training without a label map in .*/annotations/training: b.jpg; add")


def test_a_label_map_without_an_image_is_named(root):
    (root / "images/training/a.jpg").unlink()
    opening(root, r"^1 label maps in .*/annotations/training without an image in .*/images/training: a.png; add")


def test_a_label_map_that_is_no_png_is_named(root):
    path = root / "annotations/training/a.png"
    path.rename(path.with_suffix(".jpg"))
    opening(root, r"^1 label maps in .*/annotations/training that are no .png: a.jpg; ")


def test_two_images_of_one_label_map_are_named(root):
    shutil.copy(root / "images/training/a.jpg", root / "images/training/a.png")
    opening(root, r"^a\.jpg, a\.png in .*/images/training differ by their suffix alone")


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_an_absent_folder_is_named(root, folder):
    shutil.rmtree(root / folder / "training")
    opening(root, rf"^no folder .*/{folder}/training; set --config.data.dir to the one that holds images/ and annot")


def test_an_empty_folder_is_named(root):
    for path in [*root.glob("*/training/*")]:
        path.unlink()
    opening(root, "^no images in .*/images/training")


def test_colors_are_those_of_the_file_or_of_the_palette(root):
    names, colors = read_classes(root)
    assert names == ["ground", "sky", "flower"]
    assert (colors.dtype, colors.shape) == (np.uint8, (3, 3))
    assert colors[0].tolist() == [16, 32, 48] and colors[2].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(colors[1], palette(names)[1])


@pytest.mark.parametrize(
    "text", ["name\nsky\nsea\n", "\ufeffname,color\r\nsky,\r\nsea,#00ff00\r\n", "color,name\n,sky\n,sea"]
)
def test_forms_of_the_file_of_classes(root, text):
    (root / "classes.csv").write_text(text, "utf-8")
    assert read_classes(root)[0] == ["sky", "sea"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column name with classes; it needs a line name,color, then one line per class"),
        ("sky\nsea\n", "has no column name"),
        ("name\nsky\n", "cannot be used: it has 1 classes; label maps of 8 bits can have 2 to 255"),
        ("name\n" + "\n".join(map(str, range(256))), "it has 256 classes"),
        ("name\nsky\nsea\nsky\n", "cannot be used: sky is there more than once"),
        ("name,color\nsky,\n,#ffffff\n", "cannot be used: line 3 has no name"),
        ("name,color\nsky,blue\nsea,\n", "class sky has color 'blue'; write it as #87ceeb"),
    ],
)
def test_a_wrong_file_of_classes_is_explained(root, text, message):
    (root / "classes.csv").write_text(text)
    opening(root, f"classes.csv.* {message}|classes.csv: {message}")


def test_a_file_of_classes_in_another_encoding_is_refused(root):
    (root / "classes.csv").write_bytes("name\nHäuser\nsea\n".encode("latin-1"))
    opening(root, r"classes.csv is not UTF-8 \(.* at byte 6\); save it so")


def test_absent_classes_are_explained(root):
    (root / "classes.csv").unlink()
    opening(root, r"^no classes.csv in .*; write one: a line name,color, then one line per class")


def test_ade20k_brings_its_own_names(root):
    """As released: tabs, ratios, and synonyms behind the usual name."""
    (root / "classes.csv").unlink()
    lines = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1576\t11664\t1172\twall", "2\t0.1072\t6046\t612\tbuilding, edifice",
             "8\t0.0205\t1410\t141\tbed "]  # fmt: skip
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    assert read_classes(root)[0] == ["wall", "building", "bed"]


def test_a_palette_has_colours_that_differ():
    colors = palette(["background", *map(str, range(149))]).astype(int)
    assert colors[0].tolist() == [0, 0, 0]
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 999 * np.eye(150)
    assert distances.min() >= 25
    np.testing.assert_array_equal(palette(["a", "b", "c"]), palette([*"abcdef"])[:3])


STORED = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def labels_of(data):
    return photos.decode_labels(Photo(data, "a.png"))


def test_grey_and_palettes_give_the_labels_as_stored():
    indexed = Image.fromarray(STORED)
    indexed.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    for image in (Image.fromarray(STORED), indexed):
        found = labels_of(encoded(image, "PNG"))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, STORED)
    np.testing.assert_array_equal(labels_of(encoded(indexed, "PNG", bits=2)), STORED)
    np.testing.assert_array_equal(labels_of(encoded(indexed, "PNG", transparency=0)), STORED)
    bits = Image.fromarray(STORED > 1)
    np.testing.assert_array_equal(labels_of(encoded(bits, "PNG")), STORED > 1)


@pytest.mark.parametrize(("bits", "row"), [(2, b"\0\x1b"), (4, b"\0\x01\x23")])
def test_grey_of_few_bits_is_not_widened(bits, row):
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert labels_of(data).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", r"colors \(RGB\)"), ("RGBA", r"colors \(RGBA\)"), ("LA", r"colors \(LA\)"), ("I;16", "16 bits")],
)
def test_colors_and_deep_grey_are_no_labels(mode, kind):
    message = f"^label map a.png has {kind}; it must be grey of 8 bits, or have a palette$"
    with pytest.raises(CorruptImage, match=message):
        labels_of(encoded(Image.new(mode, (4, 4)), "PNG"))


def test_another_format_under_the_name_of_a_png_is_refused():
    with pytest.raises(CorruptImage, match="^label map a.png is a JPEG, not a PNG$"):
        labels_of(encoded(Image.new("L", (8, 8)), "JPEG"))


def test_a_label_map_that_ends_too_early_is_named():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8)), "PNG")
    with pytest.raises(CorruptImage, match=r"^image a.png is corrupt \(it ends too early\)$"):
        labels_of(data[: len(data) // 2])


def batches(root, source, **fields):
    settings = default_config().data
    settings.source, settings.dir, settings.num_classes = "label_maps", str(root), source.num_classes
    settings.image_size, settings.short_side, settings.long_side = 32, 16, 64
    settings.update(fields)
    change = partial(segmentation.change, settings)
    return settings, pipeline.train_batches(source, settings, change, batch_size=4, seed=0)


def test_label_maps_become_batches(root):
    settings, made = batches(root, LabelMapSource(str(root), "train"))
    (batch,) = itertools.islice(made, 1)
    assert batch["image"].shape == (4, 32, 32, 3)
    assert set(np.unique(batch["label"])) <= {1, 2, 255}
    assert len(pipeline.open_source(settings, "test")) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((20, 31), 1), "^label map .*/annotations/training/b.png has 20x31 pixels, its image 20x30; repair"),
        (np.full((20, 30), 9), r"^label map .*/annotations/training/b.png has labels beyond the 3 classes \(9\); name"),
    ],
)
def test_a_wrong_label_map_ends_the_run_or_is_passed_over(root, labels, message, capfd):
    Image.fromarray(labels.astype(np.uint8)).save(root / "annotations/training/b.png")
    source = LabelMapSource(str(root), "train")
    with pytest.raises(UserError, match=message):
        list(itertools.islice(batches(root, source)[1], 1))
    (batch,) = itertools.islice(batches(root, source, damaged="skip")[1], 1)
    assert batch["index"].tolist() == [0] * 4
    assert "b.png has" in capfd.readouterr().err
