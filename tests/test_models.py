import jax
import jax.numpy as jnp
import pytest

import acmix_jax
from acmix_jax.errors import UserError

PARAMETERS = {  # with 1000 classes and RGB images; resnet26 to 50 counted in the released and torchvision's code
    "resnet26": 13_696_552,
    "resnet38": 19_626_792,
    "resnet50": 25_557_032,
    "acmix_resnet26": 10_487_816,
    "acmix_resnet38": 14_410_896,
    "acmix_resnet50": 18_333_976,
    "resnet14_stem1": 1_017_464,
    "resnet20_stem2": 1_105_656,
    "acmix_resnet14_stem1": 907_684,
    "acmix_resnet20_stem2": 973_512,
}


def test_the_table_is_complete():
    assert sorted(PARAMETERS) == acmix_jax.list_models()


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    model = acmix_jax.create_model(name)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == PARAMETERS[name]


def test_names_are_found_by_pattern_and_nearness():
    assert acmix_jax.list_models("acmix_resnet?8") == ["acmix_resnet38"]
    with pytest.raises(UserError, match="'acmix_resnet5'; did you mean acmix_resnet50"):
        acmix_jax.create_model("acmix_resnet5")


def test_fields_of_the_layer_reach_every_block():
    model = acmix_jax.create_model("acmix_resnet26", paths="attention", window_size=3)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))["params"]
    mixers = [block["mixer"] for block in params["backbone"].values() if "mixer" in block]
    assert len(mixers) == 8
    assert all(set(mixer) == {"qkv", "attention"} for mixer in mixers)


def test_a_plain_model_takes_no_fields_of_the_layer():
    with pytest.raises(UserError, match="use acmix_resnet50"):
        acmix_jax.create_model("resnet50", paths="attention")
    with pytest.raises(UserError, match="did you mean window_size"):
        acmix_jax.create_model("acmix_resnet50", windowsize=5)
