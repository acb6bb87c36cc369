"""Norms of each path's share of a layer's output, by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.analysis.path_norms import path_norms
from tests.networks import random_variables

MODELS = {
    "acmix_resnet14_stem1": 10,
    "acmix_san5_stem1": 16,
    "acmix_pvt_micro_patch2": 16,
    "acmix_swin_micro_patch2": 28,
}


@pytest.fixture(scope="module", params=MODELS)
def network(request):
    """A model, images and variables, whose first block's factors differ."""
    model = acmix_jax.create_model(request.param, num_classes=10)
    size = MODELS[request.param]
    images = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    variables = random_variables(request.param)
    mixer = variables["params"]["backbone"]["stage1_block1"]["mixer"]
    mixer["alpha"], mixer["beta"] = jnp.float32(0.3), jnp.float32(-2.0)
    return model, variables, images


def test_norms_are_those_of_what_is_added(network):
    """The output of the first layer with only one of its factors, by flax's own record of it."""
    model, variables, images = network
    found = path_norms(model, variables, images)["stage1_block1"]

    @jax.jit
    def first_mixer(variables, images):
        _, seen = model.apply(variables, images, capture_intermediates=lambda module, _: module.name == "mixer")
        return seen["intermediates"]["backbone"]["stage1_block1"]["mixer"]["__call__"][0]

    for name, other in (("attention", "beta"), ("convolution", "alpha")):
        alone = jax.tree.map(lambda x: x, variables)
        alone["params"]["backbone"]["stage1_block1"]["mixer"][other] = jnp.float32(0)
        out = first_mixer(alone, images)
        np.testing.assert_allclose(getattr(found, name), np.linalg.norm(out, axis=-1), rtol=1e-4, atol=1e-5)
    assert found.log_ratio == pytest.approx(
        np.log(np.linalg.norm(found.attention.ravel()) / np.linalg.norm(found.convolution.ravel())), abs=1e-5
    )


def test_every_layer_is_there(network):
    model, variables, images = network
    blocks = {name for name in variables["params"]["backbone"] if "block" in name}
    assert set(path_norms(model, variables, images)) == blocks


def test_a_shifted_block_gives_the_map_as_it_lies_in_the_image():
    """A changed corner pixel changes those near it, and the last row and column, its neighbours in a shifted window."""
    model = acmix_jax.create_model("acmix_swin_micro_patch2", num_classes=10)
    images = jax.random.normal(jax.random.key(0), (1, 28, 28, 3))
    variables = random_variables("acmix_swin_micro_patch2")
    before, after = (
        path_norms(model, variables, x)["stage1_block2"].convolution[0] for x in (images, images.at[:, 0, 0].add(5.0))
    )
    rows, columns = np.nonzero(np.abs(after - before) > 1e-6)
    assert set(rows.tolist()) | set(columns.tolist()) <= {*range(9), 13}  # 7 of the window, 1 of each convolution
    assert {0, 5} <= set(rows.tolist())


def test_what_fills_a_map_up_is_left_out():
    """Swin's windows of 7 fill maps of 12, 6, 3 and 2 pixels up to 14, 6, 3 and 2."""
    model = acmix_jax.create_model("acmix_swin_micro_patch2", num_classes=10)
    images = jnp.ones((1, 24, 24, 3))
    variables = random_variables("acmix_swin_micro_patch2")
    found = path_norms(model, variables, images)
    assert {norms.attention.shape[1:] for norms in found.values()} == {(12, 12), (6, 6), (3, 3), (2, 2)}


def test_a_path_of_nothing_is_infinitely_less(network):
    model, variables, images = network
    variables = jax.tree.map(lambda x: x, variables)
    variables["params"]["backbone"]["stage1_block1"]["mixer"]["beta"] = jnp.float32(0)
    found = path_norms(model, variables, images)["stage1_block1"]
    assert found.log_ratio == np.inf
    assert (found.log_ratio_by_pixel == np.inf).all()
