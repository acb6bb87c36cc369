"""Changes to whole batches on the device, under jit: random erasing, mixup and cutmix, as in timm.

Images are float `[B, H, W, C]`, already normalised; targets float `[B, K]`, distributions over the classes.
"""

import jax
import jax.numpy as jnp

GROUP = 128  # rows that share one ratio: the batch of one GPU in the recipes of PVT and Swin, whatever the devices here
_APART = 4  # rows between partners
_ATTEMPTS = 10
_AREA, _SHAPE = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of an erased part


def erase(images: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Fills a random part of so many images with noise (Zhong et al., AAAI 2020; "pixel" mode, one part)."""
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    draws = (batch, _ATTEMPTS)
    area = height * width * jax.random.uniform(keys[0], draws, minval=_AREA[0], maxval=_AREA[1])
    shape = jnp.exp(jax.random.uniform(keys[1], draws, minval=jnp.log(_SHAPE[0]), maxval=jnp.log(_SHAPE[1])))
    h, w = jnp.round(jnp.sqrt(area * shape)), jnp.round(jnp.sqrt(area / shape))
    fits = (h < height) & (w < width)
    first = fits.argmax(axis=1)  # of the ten attempts, the first that fits
    h, w = (jnp.take_along_axis(x, first[:, None], axis=1)[:, 0] for x in (h, w))
    place = jax.random.uniform(keys[2], (2, batch))
    top, left = jnp.floor(place[0] * (height - h + 1)), jnp.floor(place[1] * (width - w + 1))
    chosen = fits.any(axis=1) & (jax.random.uniform(keys[3], (batch,)) < probability)
    inside = _inside(top, left, h, w, height, width) & chosen[:, None, None]
    noise = jax.random.normal(keys[4], images.shape, images.dtype)
    return jnp.where(inside[..., None], noise, images)


def mix(images, targets, key: jax.Array, mixup: float, cutmix: float):
    """Mixes each image and target with its partner's: by mixup or by cutmix, as a coin decides for each group.

    Partners are four rows apart: near, so that a device needs no images of another, but farther than an image from its
    repeats (data.repeats of 3).

    Args:
      mixup, cutmix: parameters of the Beta distributions of the ratio; 0 leaves that one out.

    Returns:
      Images and targets. An odd last row stays as it is.
    """
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    groups = -(-batch // GROUP)

    def for_rows(x):
        return jnp.repeat(x, GROUP, total_repeat_length=groups * GROUP)[:batch]

    cut = jax.random.bernoulli(keys[0], 0.5 if mixup and cutmix else float(cutmix > 0), (groups,))
    ratio = jnp.ones(groups)
    if mixup:
        ratio = jnp.where(cut, ratio, jax.random.beta(keys[1], mixup, mixup, (groups,)))
    if cutmix:
        ratio = jnp.where(cut, jax.random.beta(keys[2], cutmix, cutmix, (groups,)), ratio)
    # The part that cutmix takes from the partner; the border cuts off some of it.
    h, w = (jnp.floor(side * jnp.sqrt(1 - ratio)) for side in (height, width))
    y, x = (
        jnp.floor(jax.random.uniform(k, (groups,)) * side) for k, side in zip(keys[3:], (height, width), strict=True)
    )
    top, left = jnp.clip(y - h // 2, 0, height), jnp.clip(x - w // 2, 0, width)
    h, w = jnp.clip(y + h // 2, 0, height) - top, jnp.clip(x + w // 2, 0, width) - left
    ratio = for_rows(jnp.where(cut, 1 - h * w / (height * width), ratio))
    inside = _inside(*map(for_rows, (top, left, h, w)), height, width)[..., None]
    own = jnp.where(for_rows(cut)[:, None, None, None], 1.0 - inside, ratio[:, None, None, None]).astype(images.dtype)
    return own * images + (1 - own) * _partners(images), (
        ratio[:, None] * targets + (1 - ratio[:, None]) * _partners(targets)
    )


def _partners(x):
    """Rows 4 to 7 and 0 to 3, 12 to 15 and 8 to 11, ...; of up to seven last ones, the two halves change places."""
    whole = len(x) // (2 * _APART) * 2 * _APART
    half = (len(x) - whole) // 2
    swapped = x[:whole].reshape(-1, 2, _APART, *x.shape[1:])[:, ::-1].reshape(whole, *x.shape[1:])
    first, second, odd = x[whole : whole + half], x[whole + half : whole + 2 * half], x[whole + 2 * half :]
    return jnp.concatenate([swapped, second, first, odd])


def _inside(top, left, h, w, height, width):
    """Bool `[B, height, width]`, from the place and size of a part of each image, `[B]` each."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    top, left, h, w = (value[:, None, None] for value in (top, left, h, w))
    return (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
