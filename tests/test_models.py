import jax
import jax.numpy as jnp
import pytest

import acmix_jax
from acmix_jax.config import default_config
from acmix_jax.errors import UserError
from acmix_jax.models import model_fields


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


@pytest.mark.parametrize(
    ("name", "image_size", "window_size"),
    [("swin_tiny", 384, 12), ("acmix_swin_tiny", 384, 12), ("swin_micro_patch2", 32, 4), ("swin_base", 384, 12)],
)
def test_windows_of_swin_have_any_size(name, image_size, window_size):
    model = acmix_jax.create_model(name, window_size=window_size)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    logits, variables = jax.eval_shape(lambda key, x: model.init_with_output(key, x), jax.random.key(0), images)
    block = variables["params"]["backbone"]["stage1_block2"]
    table = block["mixer"]["attention"]["relative_position_bias"]
    assert table.shape[0] == (2 * window_size - 1) ** 2
    assert logits.shape == (1, 1000)


def test_windows_of_plain_san_have_any_size():
    assert acmix_jax.create_backbone("san10", window_size=5).mixers[1].keywords["attention_kind"].keywords == {
        "window_size": 5
    }


@pytest.mark.parametrize("model", ["swin_tiny", "acmix_swin_tiny", "san10"])
def test_a_config_sets_the_window_of_plain_networks_too(model):
    config = default_config()
    config.model, config.acmix.window_size = model, 12
    assert model_fields(config)["window_size"] == 12


def test_a_plain_model_leaves_out_the_fields_that_it_lacks():
    config = default_config()
    config.model, config.acmix.window_size = "resnet50", 5
    assert not set(config.acmix) & set(model_fields(config))


@pytest.mark.parametrize("name", ["swin_tiny", "acmix_resnet26", "acmix_san10"])
def test_a_window_has_pixels(name):
    with pytest.raises(UserError, match="window_size=0 is not valid; use a whole number from 1"):
        acmix_jax.create_model(name, window_size=0)


def test_fields_that_a_family_sets_itself_are_refused():
    with pytest.raises(UserError, match="unknown ACmix field of acmix_swin_tiny 'num_heads'"):
        acmix_jax.create_model("acmix_swin_tiny", num_heads=4)
    with pytest.raises(UserError, match="unknown ACmix field of acmix_pvt_tiny 'window_size'"):
        acmix_jax.create_model("acmix_pvt_tiny", window_size=5)
    with pytest.raises(UserError, match="resnet50 has no drop_path; leave it at its default"):
        acmix_jax.create_model("resnet50", drop_path=0.1)


def test_stages_are_frozen_in_resnets_alone():
    backbone = acmix_jax.create_backbone("acmix_resnet50", frozen_stages=1, norm_eval=True)
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    with pytest.raises(UserError, match="swin_tiny has no frozen_stages"):
        acmix_jax.create_backbone("swin_tiny", frozen_stages=1)


@pytest.mark.parametrize(
    ("model", "backend", "changes", "form"),
    [
        ("acmix_resnet26", "gpu", {"dtype": "bfloat16"}, "kernel"),
        ("acmix_resnet26", "gpu", {"dtype": "bfloat16", "acmix.attention_form": "tiled"}, "tiled"),
        ("acmix_resnet26", "gpu", {"dtype": "bfloat16", "batch_norm_groups": 2}, None),
        ("acmix_resnet26", "gpu", {}, None),
        ("acmix_resnet26", "tpu", {"dtype": "bfloat16"}, None),
        ("acmix_resnet26", None, {}, None),
        ("acmix_swin_tiny", "gpu", {"dtype": "bfloat16"}, None),
        ("resnet26", "gpu", {"dtype": "bfloat16"}, None),
    ],
)
def test_a_run_on_gpus_takes_the_kernel_of_local_attention(model, backend, changes, form):
    config = default_config()
    config.model = model
    config.update_from_flattened_dict(changes)
    assert model_fields(config, backend).get("attention_form") == form
