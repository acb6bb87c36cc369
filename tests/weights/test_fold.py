"""A folded network computes the same as the trained one, and cannot be trained."""

import jax
import numpy as np
import pytest

import acmix_jax
from acmix_jax.errors import UserError
from acmix_jax.weights.fold import fold
from tests.networks import draw, random_variables, segmenter_shapes

SIZES = {
    "acmix_resnet14_stem1": (9, 16),
    "acmix_pvt_micro_patch2": (16, 24),
    "acmix_san5_stem1": (16, 24),
    "resnet20_stem2": (17, 32),
    "san5_stem1_pairwise": (16, 24),
    "acmix_san5_stem1_pairwise": (24, 16),
    "acmix_swin_micro_patch2": (16, 30),
    "acmix_resnet26": (64, 96),
}


def trained(name, size, **acmix):
    """A model, images, and random variables."""
    model = acmix_jax.create_model(name, num_classes=10, **acmix)
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    return model, images, random_variables(name, **acmix)


def assert_same(model, images, variables, folded):
    """Feature maps and logits, which alone would hide a mistake behind the head's average."""
    run = jax.jit(lambda v: (model.apply(v, images), model.apply(v, images, method="features")))
    found, wanted = run(folded), run(variables)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


QUICK = ("acmix_resnet14_stem1", "acmix_pvt_micro_patch2", "san5_stem1_pairwise")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SIZES])
def test_a_folded_network_computes_the_same(name):
    model, images, variables = trained(name, SIZES[name])
    folded = fold(variables)
    assert not [path for path, _ in jax.tree.leaves_with_path(folded) if path[-1].key in ("alpha", "beta")]
    assert_same(model, images, variables, folded)


@pytest.mark.parametrize("head", [pytest.param("semantic_fpn", marks=pytest.mark.slow), "upernet"])
def test_a_folded_segmenter_computes_the_same(head):
    """Its heads have no BatchNorm any more, and Swin, for which they are all there is to fold, stays as it was."""
    model = acmix_jax.create_segmenter("swin_micro_patch2", head, num_classes=5, head_width=8)
    images = np.random.default_rng(1).normal(size=(2, 16, 30, 3)).astype(np.float32)
    variables = draw(segmenter_shapes("swin_micro_patch2", head))
    folded = fold(variables)
    assert "batch_stats" not in folded
    found, wanted = jax.jit(lambda *trees: [model.apply(v, images, method="with_auxiliary") for v in trees])(
        folded, variables
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    with pytest.raises(UserError, match="folded variables cannot be trained"):
        model.apply(folded, images, train=True, mutable=["batch_stats"])


@pytest.mark.slow
@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_one_path_alone_is_folded_too(paths):
    model, images, variables = trained("acmix_resnet14_stem1", (8, 9), paths=paths)
    assert_same(model, images, variables, fold(variables))


def test_nothing_is_left_of_batch_norm_in_resnet_but_biases():
    """And of fc and shift only where the layer is wider than what is composed."""
    _, _, variables = trained("acmix_resnet14_stem1", (8, 8))
    folded = fold(variables, largest_composed=64)
    assert "batch_stats" not in folded
    mixers = [folded["params"]["backbone"][f"stage{i}_block1"]["mixer"] for i in (1, 2, 3, 4)]
    assert [sorted(mixer) for mixer in mixers] == 3 * [["attention", "qkv"]] + [["attention", "fc", "qkv", "shift"]]


@pytest.mark.parametrize("name", ["acmix_resnet14_stem1", "acmix_swin_micro_patch2"])
def test_a_shared_shift_is_refused(name):
    _, _, variables = trained(name, SIZES[name], shared_shift=True)
    with pytest.raises(UserError, match="shared_shift=True cannot be folded"):
        fold(variables)


def test_folded_variables_cannot_be_trained_or_folded_again():
    model, images, variables = trained("acmix_swin_micro_patch2", (16, 16))
    folded = fold(variables)
    with pytest.raises(UserError, match="folded variables cannot be trained"):
        model.apply(folded, images, train=True, mutable=["batch_stats"])
    with pytest.raises(UserError, match="folded already"):
        fold(folded)


def test_a_layer_alone_is_folded_too():
    layer, x = acmix_jax.ACmix(8, kernel_size=5, stride=2), np.ones((1, 7, 6, 4), np.float32)
    variables = layer.init(jax.random.key(0), x)
    folded = fold(variables)
    assert sorted(folded["params"]) == ["attention", "qkv"]
    assert sorted(folded["folded"]) == ["bias_kernel", "kernel", "scale"]
    np.testing.assert_allclose(layer.apply(folded, x), layer.apply(variables, x), rtol=1e-5, atol=1e-6)
