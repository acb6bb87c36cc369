"""Changes of an example of semantic segmentation, against the rules of mmseg written out here."""

import itertools
from functools import partial

import numpy as np
import pytest
from PIL import Image

from acmix_jax.config import default_config
from acmix_jax.data import pipeline, segmentation
from acmix_jax.data.photos import CorruptImage, Photo
from tests.photographs import encoded


@pytest.fixture
def settings():
    settings = default_config().data
    settings.image_size, settings.short_side, settings.long_side, settings.num_classes = 32, 40, 160, 200
    return settings


def example(height=48, width=60):
    """An image whose channels are its label map."""
    label_map = ((np.arange(height)[:, None] // 6 * 10 + np.arange(width) // 6) % 200).astype(np.uint8)
    return {"image": np.repeat(label_map[..., None], 3, axis=-1), "label_map": label_map}


def train(settings, example, seed=0):
    return segmentation.change(settings, example, np.random.default_rng(seed))


def test_a_training_example_has_the_shapes_and_types_of_a_batch(settings):
    changed = train(settings, example())
    assert {name: (value.shape, value.dtype.name) for name, value in changed.items()} == {
        "image": ((32, 32, 3), "uint8"), "label": ((32, 32), "uint8"), "size": ((2,), "int32"),
    }  # fmt: skip


def test_training_follows_the_generator(settings):
    first, same, other = (train(settings, example(), seed)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_labels_are_cropped_and_flipped_alike(settings, flip):
    settings.flip = flip
    for seed in range(20):
        changed = train(settings, example(), seed)
        height, width = changed["size"]
        inside = changed["image"][:height, :width, 0].astype(int) - changed["label"][:height, :width]
        assert np.median(np.abs(inside)) <= 1  # edges are blurred


def test_a_flip_mirrors_half_of_the_examples(settings):
    settings.short_side, settings.image_size, settings.flip = 0, 0, True
    seen = [train(settings, example(), seed)["label"][0, 0] for seed in range(100)]
    assert set(seen) == {0, 9}
    assert 35 < seen.count(9) < 65


def test_padding_is_ignored_and_lies_at_the_bottom_and_the_right(settings):
    settings.scale_range = (0.5, 0.5)
    changed = train(settings, example(48, 60))
    assert changed["size"].tolist() == [20, 25]
    assert (changed["label"][20:] == 255).all() and (changed["label"][:, 25:] == 255).all()
    assert (changed["label"][:20, :25] != 255).all()
    assert not changed["image"][20:].any() and not changed["image"][:, 25:].any()


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((512, 683), 512, 2048, (512, 683)),
        ((480, 640), 512, 2048, (512, 683)),  # 682.67
        ((100, 1000), 512, 2048, (205, 2048)),  # the long side decides
        ((300, 451), 256, 1024, (256, 385)),  # 384.85
        ((2, 800), 40, 160, (1, 160)),  # 0.4, at least a pixel
    ],
)
def test_sizes_are_rounded_as_in_mmcv(size, short, long, expected):
    assert segmentation.rescaled(size, short, long) == expected


def test_without_short_side_nothing_is_resized(settings):
    settings.short_side, settings.image_size = 0, 0
    given = example()
    changed = train(settings, given)
    np.testing.assert_array_equal(changed["image"], given["image"])
    np.testing.assert_array_equal(changed["label"], given["label_map"])
    evaluated = segmentation.change(settings, given, None)
    np.testing.assert_array_equal(evaluated["image"], given["image"])


def dominated():
    """A label map that one class fills but for a corner."""
    label_map = np.zeros((64, 64), np.uint8)
    label_map[40:, 40:] = 1
    return {"image": np.zeros((64, 64, 3), np.uint8), "label_map": label_map}


def shares(settings, example, seeds=60):
    largest = []
    for seed in range(seeds):
        counts = np.bincount(train(settings, example, seed)["label"].ravel(), minlength=256)[:255]
        largest.append(counts.max() / max(1, counts.sum()))
    return np.array(largest)


def test_crops_avoid_those_that_a_class_fills(settings):
    settings.short_side = 0
    settings.max_class_share = 1.0
    without = (shares(settings, dominated()) >= 0.75).mean()
    settings.max_class_share = 0.75
    assert (shares(settings, dominated()) >= 0.75).mean() < without / 3


def test_the_eleventh_crop_counts_unchecked(settings):
    settings.short_side = 0
    given = dominated()
    given["label_map"][:] = 3
    assert (shares(settings, given, 3) == 1).all()


def test_ignored_pixels_do_not_count_for_the_share(settings):
    """Two classes of equal share, and the rest ignored: the first crop will do."""
    settings.short_side = 0
    label_map = np.full((64, 64), 255, np.uint8)
    label_map[::8, ::2], label_map[::8, 1::2] = 0, 1
    given = {"image": np.zeros((64, 64, 3), np.uint8), "label_map": label_map}
    settings.max_class_share = 1.0
    first = train(settings, given)["label"]
    settings.max_class_share = 0.75
    np.testing.assert_array_equal(train(settings, given)["label"], first)


def evaluated(settings, given):
    return segmentation.change(settings, given, None)


def test_evaluation_keeps_the_labels_at_their_size(settings):
    given = example(48, 300)
    changed = evaluated(settings, given)
    assert changed["full_size"].tolist() == [48, 300] and changed["full_size"].dtype == np.int32
    assert changed["label"].shape == (256, 512) and changed["label"].dtype == np.uint8
    np.testing.assert_array_equal(changed["label"][:48, :300], given["label_map"])
    assert (changed["label"][48:] == 255).all() and (changed["label"][:, 300:] == 255).all()


@pytest.mark.parametrize(
    ("size", "divisor", "expected"),
    [
        ((48, 60), 32, (64, 64)),  # 40x50
        ((48, 60), 0, (40, 50)),
        ((60, 48), 32, (64, 64)),
        ((30, 300), 32, (32, 160)),  # 16x160
        ((512, 683), 32, (64, 64)),  # 40x53
    ],
)
def test_evaluation_resizes_to_multiples_of_the_divisor(settings, size, divisor, expected):
    settings.size_divisor = divisor
    changed = evaluated(settings, example(*size))
    assert changed["image"].shape == (*expected, 3)
    canvas = changed["label"].shape
    assert segmentation.eval_group(settings, size) == (*expected, *canvas)


@pytest.mark.parametrize(
    ("ignore_label", "zero_is_ignored", "expected"),
    [
        (255, False, [0, 1, 2, 3, 255]),
        (2, False, [0, 1, 255, 3, None]),
        (0, False, [255, 1, 2, 3, None]),
        (255, True, [255, 0, 1, 2, 255]),
        (2, True, [255, 0, 255, 2, None]),
    ],
)
def test_label_rules(settings, ignore_label, zero_is_ignored, expected):
    settings.ignore_label, settings.zero_is_ignored = ignore_label, zero_is_ignored
    kept = [(stored, label) for stored, label in zip([0, 1, 2, 3, 255], expected, strict=True) if label is not None]
    stored = np.array([[label for label, _ in kept]], np.uint8)
    labels = segmentation.load_labels(settings, {"label_map": stored}, 200)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[label for _, label in kept]]


def photo_of(label_map, name="a.png", **options):
    return Photo(encoded(Image.fromarray(label_map), "PNG", **options), name)


@pytest.mark.parametrize("zero_is_ignored", [False, True])
def test_labels_beyond_the_classes_are_named(settings, zero_is_ignored):
    settings.zero_is_ignored = zero_is_ignored
    stored = np.array([[0, 1, 9, 7]], np.uint8)
    message = r"^label map a.png has labels beyond the 4 classes \(7, 9\); .*data.ignore_label and zero_is_ignored$"
    with pytest.raises(CorruptImage, match=message):
        segmentation.load_labels(settings, {"label_map": photo_of(stored)}, 4)


def test_255_is_no_class_of_its_own(settings):
    settings.ignore_label = 0
    with pytest.raises(CorruptImage, match=r"a label map has labels beyond the 255 classes \(255\)"):
        segmentation.load_labels(settings, {"label_map": np.array([[255]], np.uint8)}, 255)


def test_other_sizes_are_named(settings):
    given = {**example(48, 60), "label_map": photo_of(np.zeros((48, 50), np.uint8))}
    with pytest.raises(CorruptImage, match=r"^label map a.png has 48x50 pixels, its image 48x60$"):
        train(settings, given)


def test_a_label_map_on_its_side_is_not_put_down_to_the_orientation(settings):
    with pytest.raises(CorruptImage, match=r"has 60x48 pixels, its image 48x60$"):
        train(settings, {**example(48, 60), "label_map": np.zeros((60, 48), np.uint8)})


def test_an_image_that_is_turned_is_compared_after_turning(settings):
    exif = Image.Exif()
    exif[274] = 6
    image = Photo(encoded(Image.fromarray(example(48, 60)["image"]), exif=exif.tobytes()), "a.jpg")
    upright = {"image": image, "label_map": photo_of(np.zeros((60, 48), np.uint8))}
    assert evaluated(settings, upright)["full_size"].tolist() == [60, 48]
    with pytest.raises(CorruptImage, match=r"48x60 pixels, its image 60x48, once turned upright by its EXIF"):
        evaluated(settings, {**upright, "label_map": photo_of(np.zeros((48, 60), np.uint8))})


class Source:
    """Label maps of one pixel row each."""

    num_classes = 4

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"label_map": np.array([self.rows[index]], np.uint8)}


def test_shares_of_the_classes(settings):
    shares, ignored = segmentation.class_shares(settings, Source([0, 0, 1, 255], [0, 3, 3, 3]))
    np.testing.assert_allclose(shares, [3 / 7, 1 / 7, 0, 3 / 7])
    assert ignored == 1 / 8


def test_shares_look_at_examples_spread_evenly(settings):
    looked = Source([0], [1], [1], [1], [3])
    shares, _ = segmentation.class_shares(settings, looked, limit=2)
    np.testing.assert_allclose(shares, [0.5, 0, 0, 0.5])


def test_shares_of_nothing_but_ignored_pixels(settings):
    shares, ignored = segmentation.class_shares(settings, Source([255, 255]))
    assert not shares.any() and ignored == 1


def test_scenes_become_batches():
    settings = default_config().data
    settings.source, settings.image_size, settings.num_classes = "scenes", 32, 11
    source = pipeline.open_source(settings, "test")
    change = partial(segmentation.change, settings)
    (batch,) = itertools.islice(pipeline.train_batches(source, settings, change, batch_size=4, seed=0), 1)
    assert batch["image"].shape == (4, 32, 32, 3)
    assert batch["label"].shape == (4, 32, 32)
    assert batch["size"].tolist() == [[32, 32]] * 4
    evaluated = next(iter(pipeline.eval_batches(source, settings, change, 100)))
    assert evaluated["label"].shape == (100, 32, 32)
    assert evaluated["mask"].sum() == 100


def test_shares_name_a_label_map_with_labels_beyond_the_classes_of_the_source(settings):
    """Even if the model has more classes; unless damaged examples are to be passed over."""
    wrong = Source([0, 1], [9, 9])
    with pytest.raises(CorruptImage, match=r"labels beyond the 4 classes \(9\)"):
        segmentation.class_shares(settings, wrong)
    settings.damaged = "skip"
    assert segmentation.class_shares(settings, wrong)[0].tolist() == [0.5, 0.5, 0, 0]
