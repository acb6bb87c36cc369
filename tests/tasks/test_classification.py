import jax.numpy as jnp
import numpy as np

from acmix_jax.tasks.classification import smooth_labels


def test_smoothing_is_shared_by_the_wrong_classes():
    found = smooth_labels(jnp.array([2, 0]), num_classes=5, smoothing=0.1)
    np.testing.assert_allclose(found, [[0.025, 0.025, 0.9, 0.025, 0.025], [0.9, 0.025, 0.025, 0.025, 0.025]], rtol=1e-6)
