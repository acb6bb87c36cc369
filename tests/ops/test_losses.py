import jax.numpy as jnp
import numpy as np

from acmix_jax.ops.losses import IGNORED, pixel_cross_entropy


def test_ignored_pixels_count_in_the_denominator():
    logits = jnp.array([[[[0.0, np.log(3)], [5.0, 5.0]]]])
    found = pixel_cross_entropy(logits, jnp.array([[[1, IGNORED]]]))
    np.testing.assert_allclose(found, -np.log(0.75) / 2, rtol=1e-6)


def test_without_any_label_the_loss_is_zero():
    assert pixel_cross_entropy(jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2), IGNORED)) == 0
