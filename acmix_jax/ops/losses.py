"""Losses, pure functions of predictions and targets."""

import jax
import jax.numpy as jnp

IGNORED = 255
"""The label of pixels that have no part in loss and metrics."""


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross entropy, summed over the labelled pixels and divided by the number of all pixels.

    The ignored pixels count in the denominator, as in mmseg's CrossEntropyLoss and unlike torch's `ignore_index`.

    Args:
      logits: float `[B, H, W, K]`.
      labels: int `[B, H, W]`, below K or IGNORED.
    """
    known = labels != IGNORED
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(known, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(known, chosen, 0).mean()
