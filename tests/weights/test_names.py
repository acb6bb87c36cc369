"""The names that tools rely on are those that the networks have."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.models import SEGMENTATION_HEADS
from acmix_jax.weights import names
from tests import networks

NETWORKS = ("resnet14_stem1", "san5_stem1", "pvt_micro_patch2", "swin_micro_patch2")


def paths(name):
    model = acmix_jax.create_model(name, num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_of_a_mixing_layer_have_a_part(name):
    for path in [*paths(name), *paths(f"acmix_{name}")]:
        if "/mixer/" in path:
            assert path.partition("/mixer/")[2].partition("/")[0] in names.PART_OF


@pytest.mark.parametrize("name", NETWORKS[1:])
def test_an_upgrade_starts_exactly_what_acmix_adds(name):
    added = {path.partition("/mixer/")[2] for path in paths(f"acmix_{name}").keys() - paths(name).keys()}
    assert added == names.UPGRADE.keys() - (set() if "swin" in name else {"fc/bias"})


def test_every_foldable_norm_follows_its_layer():
    heads = flax.traverse_util.flatten_dict(networks.segmenter_shapes("resnet14_stem1", "upernet")["params"], sep="/")
    modules = {path.rpartition("/")[0] for leaves in (heads, paths("san5_stem1")) for path in leaves}
    for layer, norm in names.NORM_AFTER.items():
        parents = {module.rpartition("/")[0] for module in modules if module.endswith(f"/{norm}")}
        assert any(f"{module}/".startswith(f"{parent}/{layer}/") for parent in parents for module in modules), layer


def test_blocks_are_found():
    assert names.block_of("backbone/stage1_block2/mixer/alpha") == "stage1_block2"


def test_the_layer_that_makes_logits_is_found_and_the_head_that_it_is_of():
    """Of images or of pixels."""
    classifier = networks.shapes("swin_micro_patch2", 10, 1)["params"]
    assert (names.classifier_of(classifier), names.head_of(classifier)) == (("head", 10), None)
    for head in SEGMENTATION_HEADS:
        segmenter = networks.segmenter_shapes("swin_micro_patch2", head)["params"]
        assert (names.classifier_of(segmenter), names.head_of(segmenter)) == (("head/classifier", 5), head)
    assert names.classifier_of({"backbone": segmenter["backbone"]}) is None


def test_what_dense_tasks_alone_have_and_lack_is_named():
    swin, pvt = (networks.segmenter_shapes(name, "upernet") for name in ("swin_micro_patch2", "pvt_micro_patch2"))
    own = {path for path in flax.traverse_util.flatten_dict(swin["params"], sep="/") if re.match(names.MAP_NORM, path)}
    classifier = paths("swin_micro_patch2")
    assert len(own) == 8
    assert not own & classifier.keys()
    token, position = names.CLASS_TOKEN.split("/")[1], "stage4_position"
    classifier = networks.shapes("pvt_micro_patch2", 10, 3)["params"]["backbone"]
    assert classifier.keys() - pvt["params"]["backbone"].keys() == {token}
    assert classifier[position].shape == pvt["params"]["backbone"][position].shape


def test_the_window_of_weights_is_found():
    shapes = networks.shapes("swin_micro_patch2", 10, 1, window_size=5)
    assert names.window_of(jax.tree.map(lambda x: np.zeros(x.shape), shapes["params"])) == 5
    assert names.window_of({"backbone": {"stem_conv": {"kernel": np.zeros(3)}}}) is None
