import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.ops.photometric import distort, hsv_to_rgb, rgb_to_hsv

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 3)).astype(np.float32)
PIXELS[:4] = [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0]]


def test_hsv_is_that_of_colorsys():
    found = np.stack(rgb_to_hsv(jnp.asarray(PIXELS)), axis=-1)
    expected = np.array([colorsys.rgb_to_hsv(*pixel / 255) for pixel in PIXELS]) * [1, 1, 255]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_hsv_and_back_is_the_same_picture():
    back = hsv_to_rgb(*rgb_to_hsv(jnp.asarray(PIXELS)))
    np.testing.assert_allclose(back, PIXELS, atol=1e-3)


def test_a_turn_of_a_third_swaps_the_channels():
    hue, saturation, value = rgb_to_hsv(jnp.asarray(PIXELS))
    np.testing.assert_allclose(hsv_to_rgb(hue + 1 / 3, saturation, value), PIXELS[:, [2, 0, 1]], atol=1e-3)


def test_each_image_is_changed_its_own_way_and_stays_in_range():
    images = jnp.tile(jnp.asarray(PIXELS[None, None]), (64, 2, 1, 1))
    changed = np.asarray(distort(images, jax.random.key(0)))
    assert changed.min() >= 0 and changed.max() <= 255
    same = [np.abs(image - PIXELS).max() < 1e-2 for image in changed]
    assert 0 < sum(same) < 16  # four coins leave one image in sixteen as it was
    np.testing.assert_array_equal(changed[:, 0], changed[:, 1])  # one change for the whole image
    assert len(np.unique(changed[:, 0, 5].round(2), axis=0)) > 48


def test_grey_stays_grey():
    grey = jnp.full((32, 1, 1, 3), 100.0)
    changed = np.asarray(distort(grey, jax.random.key(1)))
    np.testing.assert_allclose(changed, changed[..., :1] * np.ones(3), atol=1e-3)
    assert {float(x) < 100 for x in changed[:, 0, 0, 0]} == {True, False}
