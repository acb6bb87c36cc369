import csv

import numpy as np
from PIL import Image

from acmix_jax.analysis import label_maps

COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 255]], np.uint8)
LABELS = np.array([[0, 1, 1], [255, 1, 2]])


def test_each_pixel_gets_the_colour_of_its_class_and_ignored_ones_stay():
    picture = np.full((2, 3, 3), 100, np.uint8)
    found = label_maps.overlay(picture, LABELS, COLORS, opacity=0.5)
    np.testing.assert_array_equal(found[0, 1], [150, 50, 50])
    np.testing.assert_array_equal(found[1, 0], [100, 100, 100])


def test_shares_are_of_labelled_pixels_and_absent_classes_are_left_out():
    assert label_maps.shares_of(LABELS, 4) == [(1, 60.0), (0, 20.0), (2, 20.0)]


def test_files_hold_the_labels_and_the_shares(tmp_path):
    picture = np.full((2, 3, 3), 100, np.uint8)
    predictions = [("a.jpg", picture, LABELS), ("deep/b.jpg", picture, LABELS * 0)]
    table, folder = label_maps.write(predictions, ["back", "cat", "dog"], COLORS, tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["image"], row["class"], row["per_cent"]) for row in rows] == [
        ("a.jpg", "cat", "60.00"), ("a.jpg", "back", "20.00"), ("a.jpg", "dog", "20.00"),
        ("deep/b.jpg", "back", "100.00"),
    ]  # fmt: skip
    with Image.open(folder / "a.jpg_labels.png") as image:
        np.testing.assert_array_equal(np.asarray(image), LABELS)
        assert image.getpalette()[3:6] == [200, 0, 0]
    with Image.open(folder / "deep" / "b.jpg_overlay.png") as image:
        assert image.width > 3 and image.height >= label_maps.ROW  # the legend is beside it


def test_a_sheet_has_a_row_for_each_image(tmp_path):
    picture = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((20, 30), int)
    one = label_maps.sheet([("a $1", picture, labels, labels)], ["back", "cat"], COLORS, tmp_path / "one.png")
    two = label_maps.sheet([("a", picture, labels, labels)] * 2, ["back", "cat"], COLORS, tmp_path / "two.png")
    with Image.open(one) as first, Image.open(two) as second:
        assert second.height > 1.5 * first.height and first.width == second.width
