"""Photometric distortion of training images on the device, as SSD and mmseg have it."""

import jax
import jax.numpy as jnp


def distort(images: jax.Array, key: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image, each with probability 1/2.

    Brightness by -32 to 32; contrast and saturation by a factor of 0.5 to 1.5, where a coin decides whether contrast
    comes before or after saturation and hue; hue by -36 to 34 degrees. mmseg's PhotoMetricDistortion, but without
    rounding to whole numbers between the steps.

    Args:
      images: float `[B, H, W, 3]`, RGB from 0 to 255.

    Returns:
      The same shape, type and range.
    """
    return jax.vmap(_distort)(images, jax.random.split(key, images.shape[0]))


def _distort(image, key):
    keys = jax.random.split(key, 6)
    on = jax.random.bernoulli(keys[0], shape=(4,))
    contrast_first = jax.random.bernoulli(keys[1])
    brightness = jax.random.uniform(keys[2], minval=-32, maxval=32, dtype=image.dtype)
    contrast, saturation = (jax.random.uniform(k, minval=0.5, maxval=1.5, dtype=image.dtype) for k in keys[3:5])
    turn = jax.random.randint(keys[5], (), -18, 18) / 180  # of OpenCV's hue, of which 180 are a full turn

    image = jnp.clip(image + jnp.where(on[0], brightness, 0), 0, 255)
    image = jnp.clip(image * jnp.where(on[1] & contrast_first, contrast, 1), 0, 255)
    hue, full, value = rgb_to_hsv(image)
    full = jnp.clip(full * jnp.where(on[2], saturation, 1), 0, 1)
    image = hsv_to_rgb(hue + jnp.where(on[3], turn, 0).astype(image.dtype), full, value)
    return jnp.clip(image * jnp.where(on[1] & ~contrast_first, contrast, 1), 0, 255)


def rgb_to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue in turns, saturation from 0 to 1, and value on the scale of the image: `[..., 3]` to three of `[...]`."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(axis=-1)
    span = value - image.min(axis=-1)
    safe = jnp.where(span > 0, span, 1)
    sector = jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = jnp.where(value == red, (green - blue) / safe, sector)
    return sector / 6 % 1, span / jnp.where(value > 0, value, 1), value


def hsv_to_rgb(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of `rgb_to_hsv`; hue may be any number of turns."""
    offset = jnp.array([5, 3, 1], hue.dtype)
    sector = (offset + 6 * (hue % 1)[..., None]) % 6
    drop = jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * drop)
