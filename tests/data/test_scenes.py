import numpy as np
import pytest

from acmix_jax.data import scenes
from acmix_jax.data.arrays import ArraySource
from acmix_jax.data.scenes import SceneSource


@pytest.fixture(scope="module")
def source():
    return SceneSource("train")


def test_a_scene_follows_the_seed_the_split_and_the_index(source):
    same, *others = SceneSource("train")[5], source[6], SceneSource("test")[5], SceneSource("train", seed=1)[5]
    for name in ("image", "label_map"):
        np.testing.assert_array_equal(source[5][name], same[name])
    assert all((source[5]["image"] != other["image"]).any() for other in others)


def test_scenes_are_those_of_a_source_of_label_maps(source):
    example = source[0]
    assert {name: (value.shape, value.dtype.name) for name, value in example.items()} == {
        "image": ((32, 32, 3), "uint8"), "label_map": ((32, 32), "uint8"),
    }  # fmt: skip
    assert source.size_of(0) == (32, 32)
    assert source.classes == ["background", *"0123456789"]
    assert source.num_classes == len(source.colors) == 11
    assert (len(source), len(SceneSource("test"))) == (10_000, 200)
    assert SceneSource("test").name(3) == "test scene 3"


def test_every_class_is_seen(source):
    found = [source.scene(index) for index in range(60)]
    assert {len(scene.labels) for scene in found} <= {1, 2, 3, 4}
    assert set(np.concatenate([scene.labels for scene in found])) == set(range(1, 11))
    foreground = np.mean([scene.label_map > 0 for scene in found])
    assert 0.1 < foreground < 0.25


def test_ink_is_brighter_than_the_background_around_it(source):
    scene = source.scene(0)
    ink = scene.label_map > 0
    assert scene.image[ink].mean() > scene.image[~ink].mean() + 50


def test_scenes_of_a_split_hold_digits_of_that_split(monkeypatch):
    """Of the train split only threes, of the test split only fives."""

    def load(split, directory):
        return ArraySource(np.full((9, 8, 8, 1), 255, np.uint8), np.full(9, {"train": 3, "test": 5}[split]))

    monkeypatch.setattr(scenes.digits, "load", load)
    for split, label in (("train", 4), ("test", 6)):
        assert set(np.unique(SceneSource(split)[0]["label_map"])) == {0, label}
