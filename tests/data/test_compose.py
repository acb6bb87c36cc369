"""Composed pictures: what is drawn is what the label map, the boxes and the masks say."""

import numpy as np
import pytest

from acmix_jax.data.compose import boxes_of, compose


def cutout(height, width, color, opacity=1.0):
    return np.dstack([np.full((height, width, 3), color, np.float32), np.full((height, width), opacity, np.float32)])


def composed(cutouts, size=(40, 60), largest_overlap=1.0, seed=0, noise=0.0):
    background = np.full((*size, 3), 10, np.uint8)
    return compose(background, cutouts, np.random.default_rng(seed), largest_overlap, noise)


SIX = [(cutout(10, 20, 40 * i), i) for i in range(1, 7)]


@pytest.mark.parametrize("seed", range(5))
def test_a_later_cut_out_covers_an_earlier_one(seed):
    scene = composed(SIX, seed=seed)
    np.testing.assert_array_equal(scene.image[..., 0], np.where(scene.label_map, 40 * scene.label_map, 10))
    whole = [i for i, label in enumerate(scene.labels) if label == 6]
    assert scene.masks[whole].sum() == 200


@pytest.mark.parametrize("seed", range(5))
def test_masks_and_boxes_are_those_of_the_visible_pixels(seed):
    scene = composed(SIX, seed=seed)
    assert scene.masks.sum(axis=0).max() == 1
    np.testing.assert_array_equal((scene.masks * scene.labels[:, None, None]).sum(axis=0), scene.label_map)
    for box, mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
        left, top, right, bottom = box
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()


def test_types():
    scene = composed(SIX)
    assert [getattr(scene, name).dtype.name for name in scene._fields] == ["uint8", "uint8", "float32", "int32", "bool"]


def test_what_is_covered_completely_is_no_object():
    scene = composed([(cutout(40, 60, 99), 1), (cutout(40, 60, 200), 2)])
    assert scene.labels.tolist() == [2]
    assert len(scene.masks) == len(scene.boxes) == 1
    assert (scene.label_map == 2).all()


@pytest.mark.parametrize(("opacity", "label"), [(0.49, 0), (0.5, 3)])
def test_a_pixel_belongs_to_what_covers_half_of_it(opacity, label):
    scene = composed([(cutout(40, 60, 210, opacity), 3)])
    assert (scene.label_map == label).all()
    np.testing.assert_allclose(scene.image, 10 + opacity * 200, atol=0.5)


def test_rectangles_overlap_no_more_than_allowed():
    for seed in range(10):
        scene = composed(SIX, largest_overlap=0.25, seed=seed)
        visible = scene.masks.sum(axis=(1, 2))
        assert len(visible) < 6 or visible.min() >= 200 - 5 * 50
    apart = composed(SIX, largest_overlap=0.0)
    assert set(apart.masks.sum(axis=(1, 2))) == {200}


def test_a_cut_out_without_a_place_is_left_out():
    scene = composed([(cutout(40, 40, 99), 1), (cutout(40, 40, 200), 2)], largest_overlap=0.1)
    assert scene.labels.tolist() == [1]


def test_without_cut_outs_all_is_background():
    scene = composed([])
    assert scene.boxes.shape == (0, 4) and scene.masks.shape == (0, 40, 60)
    assert not scene.label_map.any() and (scene.image == 10).all()


def test_noise_has_the_deviation_asked_for():
    assert composed([(cutout(40, 60, 128), 1)], noise=6).image.std() == pytest.approx(6, rel=0.05)


def test_boxes_are_tight():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 2:4, 1:7] = True
    masks[1, 5, 7] = True
    assert boxes_of(masks).tolist() == [[1, 2, 7, 4], [7, 5, 8, 6]]
