"""Augmentation of whole batches on the device, under jit: random erasing, mixup and cutmix, as in timm.

Images are float `[B, H, W, C]`, already normalised; targets are float `[B, K]`, distributions over the classes.
"""

import jax
import jax.numpy as jnp

GROUP = 128  # rows that share a ratio: the batch of one GPU in the recipes of PVT and Swin, whatever the devices here
_PARTNER_DISTANCE = 4  # rows
_ATTEMPTS = 10
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # ranges of an erased rectangle


def erase(images: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Fills a random rectangle of each image with noise, with `probability` (Zhong et al., AAAI 2020; "pixel" mode)."""
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    draws = (batch, _ATTEMPTS)
    area = height * width * jax.random.uniform(keys[0], draws, minval=_AREA[0], maxval=_AREA[1])
    aspect = jnp.exp(jax.random.uniform(keys[1], draws, minval=jnp.log(_ASPECT[0]), maxval=jnp.log(_ASPECT[1])))
    h, w = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (h < height) & (w < width)
    first = fits.argmax(axis=1)  # first of the attempts that fits
    h, w = (jnp.take_along_axis(x, first[:, None], axis=1)[:, 0] for x in (h, w))
    corner = jax.random.uniform(keys[2], (2, batch))
    top, left = jnp.floor(corner[0] * (height - h + 1)), jnp.floor(corner[1] * (width - w + 1))
    chosen = fits.any(axis=1) & (jax.random.uniform(keys[3], (batch,)) < probability)
    inside = _inside(top, left, h, w, height, width) & chosen[:, None, None]
    noise = jax.random.normal(keys[4], images.shape, images.dtype)
    return jnp.where(inside[..., None], noise, images)


def mix(
    images: jax.Array, targets: jax.Array, key: jax.Array, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and target with those of its partner; each group of rows draws mixup or cutmix and a ratio.

    Partners are four rows apart: near enough to be on one device, but farther apart than repeats of one image
    (data.repeats=3).

    Args:
      mixup, cutmix: a of the Beta(a, a) distribution of the ratio; 0 turns it off. With both on, each is as likely.

    Returns:
      Images and targets. An odd last row is unchanged.
    """
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    groups = -(-batch // GROUP)

    def for_rows(x):  # [groups] -> [B]
        return jnp.repeat(x, GROUP, total_repeat_length=groups * GROUP)[:batch]

    cut = jax.random.bernoulli(keys[0], 0.5 if mixup and cutmix else float(cutmix > 0), (groups,))
    ratio = jnp.ones(groups)
    if mixup:
        ratio = jnp.where(cut, ratio, jax.random.beta(keys[1], mixup, mixup, (groups,)))
    if cutmix:
        ratio = jnp.where(cut, jax.random.beta(keys[2], cutmix, cutmix, (groups,)), ratio)
    # Rectangle that cutmix takes from the partner, clipped at the border.
    h, w = (jnp.floor(side * jnp.sqrt(1 - ratio)) for side in (height, width))
    y, x = (
        jnp.floor(jax.random.uniform(k, (groups,)) * side) for k, side in zip(keys[3:], (height, width), strict=True)
    )
    top, left = jnp.clip(y - h // 2, 0, height), jnp.clip(x - w // 2, 0, width)
    h, w = jnp.clip(y + h // 2, 0, height) - top, jnp.clip(x + w // 2, 0, width) - left
    ratio = for_rows(jnp.where(cut, 1 - h * w / (height * width), ratio))
    inside = _inside(*map(for_rows, (top, left, h, w)), height, width)[..., None]
    ratios = ratio[:, None, None, None]
    own = jnp.where(for_rows(cut)[:, None, None, None], (~inside).astype(ratios.dtype), ratios).astype(images.dtype)
    return own * images + (1 - own) * _partners(images), (
        ratio[:, None] * targets + (1 - ratio[:, None]) * _partners(targets)
    )


def _partners(x):
    """Swaps neighbouring groups of four rows. A shorter tail swaps its halves, and an odd last row stays."""
    whole = len(x) // (2 * _PARTNER_DISTANCE) * 2 * _PARTNER_DISTANCE
    half = (len(x) - whole) // 2
    swapped = x[:whole].reshape(-1, 2, _PARTNER_DISTANCE, *x.shape[1:])[:, ::-1].reshape(whole, *x.shape[1:])
    first, second, odd = x[whole : whole + half], x[whole + half : whole + 2 * half], x[whole + 2 * half :]
    return jnp.concatenate([swapped, second, first, odd])


def _inside(top, left, h, w, height, width):
    """Mask of a rectangle in each image, bool `[B, height, width]`; `top`, `left`, `h` and `w` are `[B]`."""
    y, x = jnp.arange(height, dtype=top.dtype)[:, None], jnp.arange(width, dtype=top.dtype)
    top, left, h, w = (value[:, None, None] for value in (top, left, h, w))
    return (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
