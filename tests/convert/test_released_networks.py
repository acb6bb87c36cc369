"""Whole ACmix networks against an independent NumPy implementation of the released code, through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.convert import from_torch
from tests import released_numpy


def logits_of(name, state, images):
    """From NCHW images; computed in float64, but logits are float32."""
    with jax.enable_x64(True):
        model = acmix_jax.create_model(name, num_classes=10, dtype=jnp.float64)
        variables = from_torch(name, {key: np.float64(value) for key, value in state.items()})
        return np.asarray(jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1)))


@pytest.mark.parametrize(
    ("name", "depths", "stem", "width", "size"),
    [
        ("acmix_resnet14_stem1", (1, 1, 1, 1), (3, 1, False), 16, (32, 40)),
        pytest.param("acmix_resnet26", (1, 2, 4, 1), (7, 2, True), 64, (160, 128), marks=pytest.mark.slow),
    ],
)
def test_resnet_acmix(name, depths, stem, width, size):
    state = released_numpy.random_state(
        released_numpy.resnet_acmix_shapes(depths, width=width, stem_kernel=stem[0], num_classes=10), seed=0
    )
    images = np.random.default_rng(1).standard_normal((2, 3, *size))
    expected = released_numpy.resnet_acmix(state, images, depths, stem)
    np.testing.assert_allclose(logits_of(name, state, images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "depths", "num_heads", "width", "patch", "size"),
    [
        ("acmix_swin_micro_patch2", (2, 1, 2, 1), (2, 4, 8, 16), 32, 2, (112, 224)),
        pytest.param(
            "acmix_swin_tiny", (2, 2, 6, 2), (3, 6, 12, 24), 96, 4, (224, 224), marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_swin_acmix(name, depths, num_heads, width, patch, size):
    state = released_numpy.random_state(
        released_numpy.swin_acmix_shapes(depths, num_heads, width, patch, num_classes=10), seed=0
    )
    images = np.random.default_rng(1).standard_normal((1, 3, *size))
    expected = released_numpy.swin_acmix(state, images, depths, num_heads, patch=patch)
    np.testing.assert_allclose(logits_of(name, state, images), expected, rtol=0, atol=1e-5)
