import jax
import jax.numpy as jnp
import pytest

import acmix_jax
from acmix_jax.errors import UserError

PARAMETERS = {  # with 1000 classes and RGB images; counted in the released code of each family where there is some
    "resnet26": 13_696_552,
    "resnet38": 19_626_792,
    "resnet50": 25_557_032,
    "acmix_resnet26": 10_487_816,
    "acmix_resnet38": 14_410_896,
    "acmix_resnet50": 18_333_976,
    "san10": 11_841_124,
    "san15": 16_181_310,
    "san19": 20_518_470,
    "san10_pairwise": 10_531_848,
    "san15_pairwise": 14_065_436,
    "san19_pairwise": 17_596_156,
    "acmix_san10": 11_994_612,  # derived, as all of SAN-ACmix and PVT-ACmix (see the backbones)
    "acmix_san15": 16_414_134,
    "acmix_san19": 20_829_278,
    "acmix_san10_pairwise": 10_685_336,
    "acmix_san15_pairwise": 14_298_260,
    "acmix_san19_pairwise": 17_906_964,
    "pvt_tiny": 13_229_288,
    "pvt_small": 24_485_864,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "acmix_pvt_tiny": 13_396_056,
    "acmix_pvt_small": 24_824_611,
    "acmix_pvt_medium": 44_859_535,
    "acmix_pvt_large": 62_296_960,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "acmix_swin_tiny": 28_649_908,
    "acmix_swin_small": 50_345_080,
    "acmix_swin_base": 88_753_232,
    "resnet14_stem1": 1_017_464,  # the small ones are ours
    "resnet20_stem2": 1_105_656,
    "san5_stem1": 970_602,
    "san5_stem1_pairwise": 914_831,
    "pvt_micro_patch2": 1_724_744,
    "swin_micro_patch2": 1_700_272,
    "acmix_resnet14_stem1": 907_684,
    "acmix_resnet20_stem2": 973_512,
    "acmix_san5_stem1": 990_970,
    "acmix_san5_stem1_pairwise": 935_199,
    "acmix_pvt_micro_patch2": 1_774_515,
    "acmix_swin_micro_patch2": 1_753_258,
}


def test_the_table_is_complete():
    assert sorted(PARAMETERS) == acmix_jax.list_models()
    assert {name.removeprefix("acmix_") for name in PARAMETERS} == {n for n in PARAMETERS if not n.startswith("acmix_")}


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


def test_fields_that_a_family_sets_itself_are_refused():
    with pytest.raises(UserError, match="unknown ACmix field of acmix_swin_tiny 'num_heads'"):
        acmix_jax.create_model("acmix_swin_tiny", num_heads=4)
    with pytest.raises(UserError, match="unknown ACmix field of acmix_pvt_tiny 'window_size'"):
        acmix_jax.create_model("acmix_pvt_tiny", window_size=5)
    with pytest.raises(UserError, match="resnet50 has neither drop path nor dropout"):
        acmix_jax.create_model("resnet50", drop_path=0.1)
