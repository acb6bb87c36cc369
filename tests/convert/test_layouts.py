"""Swin's tensors under the names that timm (1.0) and torchvision (0.28) give them."""

import re

import flax
import numpy as np
import pytest

from acmix_jax.convert import from_torch, to_torch
from acmix_jax.convert.layouts import LAYOUTS, OTHER_LAYOUTS
from acmix_jax.errors import UserError
from tests import networks

NAME = "swin_micro_patch2"  # depths 2, 1, 2, 1


def timm(key):
    """As its checkpoint_filter_fn renames the released tensors."""
    key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)
    return re.sub(r"^head\.", "head.fc.", key)


def torchvision(key):
    """Stages and merges are one sequence, as is a perceptron: linear, GELU, dropout, linear, dropout."""
    key = re.sub(r"patch_embed\.(proj|norm)", lambda m: f"features.0.{0 if m[1] == 'proj' else 2}", key)
    key = re.sub(r"layers\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}", key)
    key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1]) + 2}", key)
    return key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


@pytest.fixture(scope="module")
def variables():
    return networks.random_variables(NAME)


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": {f"net.{k}": x for k, x in state.items()}}]
)
@pytest.mark.parametrize("rename", [timm, torchvision])
def test_values_arrive_where_they_belong(rename, wrap, variables):
    state = {rename(key): x for key, x in to_torch(NAME, variables).items() if not key.endswith("attn_mask")}
    converted = flax.traverse_util.flatten_dict(from_torch(NAME, wrap(state)))
    expected = flax.traverse_util.flatten_dict(variables)
    assert converted.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(converted[path], leaf)


@pytest.mark.parametrize(
    ("title", "path", "name"),
    [
        ("timm", "backbone/stage2_merge/reduction", "layers.1.downsample.reduction"),
        ("timm", "backbone/stage4_merge/norm", "layers.3.downsample.norm"),
        ("timm", "head", "head.fc"),
        ("torchvision", "backbone/patch_norm", "features.0.2"),
        ("torchvision", "backbone/stage1_block1/norm1", "features.1.0.norm1"),
        ("torchvision", "backbone/stage2_merge/norm", "features.2.norm"),
        ("torchvision", "backbone/stage3_block6/mlp/fc2", "features.5.5.mlp.3"),
        ("torchvision", "backbone/stage4_block2/mixer/qkv", "features.7.1.attn.qkv"),
    ],
)
def test_names_are_theirs(title, path, name):
    assert OTHER_LAYOUTS["swin"][title].name(path) == [(name, 1)]


@pytest.mark.parametrize(("rename", "title"), [(timm, "timm"), (torchvision, "torchvision")])
def test_what_does_not_fit_is_named_in_their_names(rename, title, variables):
    state = {rename(key): x for key, x in to_torch(NAME, variables).items()}
    del state[rename("layers.0.downsample.norm.bias")], state[rename("head.bias")]
    with pytest.raises(UserError, match=f"not one of {NAME} in the layout of {title}: 2 missing: ") as error:
        from_torch(NAME, {key: x for key, x in state.items() if not key.endswith("attn_mask")})
    assert rename("layers.0.downsample.norm.bias") in str(error.value)


def test_number_of_classes_is_found_in_each_layout():
    variables = networks.random_variables(NAME, num_classes=7)
    for rename in (timm, torchvision):
        state = {rename(key): x for key, x in to_torch(NAME, variables).items()}
        assert from_torch(NAME, state)["params"]["head"]["bias"].shape == (7,)


def test_released_names_are_the_first_choice():
    assert LAYOUTS["swin"].name("backbone/stage2_merge/norm") == [("layers.0.downsample.norm", 1)]
