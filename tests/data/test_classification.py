import numpy as np
import pytest

from acmix_jax.config import default_config
from acmix_jax.data import augment, classification

EXAMPLE = {
    "image": np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), "label": np.int32(7),
}  # fmt: skip


@pytest.fixture
def settings():
    settings = default_config().data
    settings.image_size, settings.random_crop, settings.flip = 12, True, True
    return settings


def changed(settings, rng):
    return classification.change(settings, EXAMPLE, rng)["image"]


def test_evaluation_crops_the_centre_without_augmentation(settings):
    settings.eval_resize = 14
    expected = augment.center_crop(EXAMPLE["image"], 12, 14, "bilinear")
    np.testing.assert_array_equal(changed(settings, None), expected)


def test_training_follows_the_generator(settings):
    images = [changed(settings, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert {image.shape for image in images} == {(12, 12, 3)}
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_only_the_image_changes(settings):
    assert classification.change(settings, EXAMPLE, None)["label"] == 7
    assert EXAMPLE["image"].shape == (20, 30, 3)
