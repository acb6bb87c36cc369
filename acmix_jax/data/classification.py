"""Changes an example of image classification: decoding, cropping, resizing and random augmentation of its image."""

from typing import Any

import numpy as np

from acmix_jax.data import augment
from acmix_jax.data.rand_augment import rand_augment


def change(config: Any, example: dict, rng: np.random.Generator | None) -> dict:
    """The example with its image as the network gets it, before the pixels are normalised.

    Args:
      config: the config's `data`.
      example: {"image": Photo or uint8 `[H, W, C]`, ...}; the other entries stay as they are.
      rng: of the augmentation; None for evaluation.

    Raises:
      CorruptImage: the image cannot be decoded.
    """
    image = example["image"]
    return {**example, "image": _for_evaluation(config, image) if rng is None else _for_training(config, image, rng)}


def _for_training(config, image, rng):
    size, interpolation = config.image_size, config.interpolation
    if config.random_crop:
        image = augment.random_resized_crop(image, rng, size, config.crop_scale, interpolation)
    elif size:
        image = augment.resize(image, size, interpolation)
    else:
        image = augment.to_array(image)
    if config.shift:
        image = augment.shift(image, rng, config.shift)
    if config.flip:
        image = augment.flip(image, rng)
    if config.rand_augment:
        fill = tuple(min(255, round(255 * mean)) for mean in config.mean)
        image = rand_augment(image, rng, fill, augment.RESAMPLING[interpolation])
    return image


def _for_evaluation(config, image):
    if not config.image_size:
        return augment.to_array(image)
    if not config.eval_resize:
        return augment.resize(image, config.image_size, config.interpolation)
    return augment.center_crop(image, config.image_size, config.eval_resize, config.interpolation)
