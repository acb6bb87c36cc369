from functools import partial

import flax
import jax
import ml_dtypes
import numpy as np
import pytest

import acmix_jax
from acmix_jax.convert import from_torch, to_torch
from acmix_jax.convert.state_dict import convert, variable_shapes
from acmix_jax.errors import UserError
from tests import networks

ENTRIES = {  # in a state dict of the released code, with its buffers
    "acmix_resnet26": 264,
    "resnet50": 320,
    "san10": 348,
    "san15": 503,
    "san10_pairwise": 368,
    "acmix_san10_pairwise": 408,
    "pvt_tiny": 161,
    "acmix_pvt_tiny": 193,
    "swin_tiny": 190,
    "acmix_swin_tiny": 250,
}


def wrapped(tensors):
    return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}


@pytest.mark.parametrize("name", ENTRIES)
def test_back_and_forth(name):
    tensors = to_torch(name, networks.random_variables(name), num_batches_tracked=7)
    assert len(tensors) == ENTRIES[name]
    variables = from_torch(name, wrapped(tensors))
    of = partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert of(variables) == of(networks.shapes(name, 10, 3))
    back = to_torch(name, variables, num_batches_tracked=7)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (back[key].tobytes(), back[key].dtype, back[key].shape) == (
            tensor.tobytes(), tensor.dtype, tensor.shape,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "acmix_resnet26",
            {
                "layer2.0.conv2.conv1.weight": (128, 128, 1, 1), "layer2.0.conv2.conv_p.weight": (32, 2, 1, 1),
                "layer2.0.conv2.fc.weight": (9, 12, 1, 1), "layer2.0.conv2.dep_conv.weight": (128, 9, 3, 3),
                "layer2.0.conv2.rate1": (1,), "layer2.0.downsample.0.weight": (512, 256, 1, 1), "fc.weight": (10, 2048),
            },
        ),
        (
            "san10",
            {
                "layer0.0.sam.conv_w.2.weight": (2, 40, 1, 1), "layer0.0.sam.conv_w.5.weight": (18, 2, 1, 1),
                "layer1.0.sam.conv_w.2.weight": (8, 800, 1, 1), "layer1.0.sam.conv_w.5.weight": (392, 8, 1, 1),
                "layer1.0.conv.weight": (256, 64, 1, 1), "bn4.running_var": (2048,),
            },
        ),
        (
            "pvt_tiny",
            {
                "cls_token": (1, 1, 512), "pos_embed1": (1, 3136, 64), "pos_embed4": (1, 50, 512),
                "patch_embed2.proj.weight": (128, 64, 2, 2), "block1.0.attn.kv.weight": (128, 64),
                "block1.0.attn.sr.weight": (64, 64, 8, 8), "block4.1.mlp.fc1.weight": (2048, 512),
            },
        ),
        (
            "acmix_swin_tiny",
            {
                "layers.0.blocks.1.attn_mask": (64, 49, 49), "layers.3.blocks.1.attn.rate2": (1,),
                "layers.0.blocks.0.attn.relative_position_bias_table": (169, 3),
                "layers.0.blocks.0.attn.relative_position_index": (49, 49), "layers.0.blocks.0.attn.fc.bias": (9,),
                "layers.2.downsample.reduction.weight": (768, 1536), "patch_embed.proj.weight": (96, 3, 4, 4),
            },
        ),
    ],
)  # fmt: skip
def test_names_and_shapes_are_the_released_ones(name, shapes):
    tensors = to_torch(name, networks.random_variables(name))
    assert {key: tensors[key].shape for key in shapes} == shapes


def test_no_mask_where_one_window_covers_the_map():
    masks = [key for key in to_torch("swin_tiny", networks.random_variables("swin_tiny")) if key.endswith("attn_mask")]
    assert masks == [f"layers.{s}.blocks.{b}.attn_mask" for s, b in [(0, 1), (1, 1), (2, 1), (2, 3), (2, 5)]]


def test_every_difference_is_listed():
    tensors = to_torch("acmix_resnet14_stem1", networks.random_variables("acmix_resnet14_stem1"))
    del tensors["layer1.0.conv2.rate1"], tensors["bn1.running_mean"]
    tensors["layer1.0.conv2.dep_conv.bias"] = np.zeros(16)
    tensors["fc.weight"] = tensors["fc.weight"][:, :-1]
    with pytest.raises(UserError) as error:
        from_torch("acmix_resnet14_stem1", tensors)
    assert str(error.value) == (
        "the state dict is not one of acmix_resnet14_stem1: 2 missing: bn1.running_mean, layer1.0.conv2.rate1; "
        "1 left over: layer1.0.conv2.dep_conv.bias; 1 of another shape: fc.weight (10, 511) instead of (10, 512); "
        "name the model that it was saved from"
    )


def test_fields_and_channels_are_found():
    """A grey stem, and layers with fields of their own."""
    shapes = variable_shapes("acmix_swin_micro_patch2", 5, channels=1, window_size=5, kernel_size=5)
    variables = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    tensors = to_torch("acmix_swin_micro_patch2", variables)
    assert tensors["patch_embed.proj.weight"].shape[1] == 1
    back = from_torch("acmix_swin_micro_patch2", tensors, window_size=5, kernel_size=5)
    assert flax.traverse_util.flatten_dict(back).keys() == flax.traverse_util.flatten_dict(variables).keys()


@pytest.fixture(scope="module")
def small():
    """A state dict of resnet14_stem1."""
    return to_torch("resnet14_stem1", networks.random_variables("resnet14_stem1"), num_batches_tracked=7)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.longdouble])
def test_each_precision_becomes_float32(small, dtype):
    variables = from_torch("resnet14_stem1", {key: value.astype(dtype) for key, value in small.items()})
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize("value", [1e39, -1e300, np.nan])
def test_what_is_not_finite_in_float32_is_refused(small, value):
    with pytest.raises(UserError, match=r"NaN or infinite in fc\.bias"):
        from_torch("resnet14_stem1", small | {"fc.bias": np.full(10, value)})


@pytest.mark.parametrize(
    ("counter", "expected"),
    [(np.float32(np.nan), 0), (np.float64(1e30), 0), (np.int64(-3), 0), (np.ones(2, int), 0), (np.array([5]), 5)],
)
def test_only_whole_numbers_count_batches(small, counter, expected):
    counters = {key: counter for key in small if key.endswith("num_batches_tracked")}
    assert convert("resnet14_stem1", small | counters).batches_tracked == expected


@pytest.mark.slow
def test_every_parameter_of_every_model_has_a_name():
    for name in acmix_jax.list_models():
        shapes = networks.shapes(name, 10, 3)
        tensors = to_torch(name, jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes))
        weights = sum(t.size for key, t in tensors.items() if not key.endswith(("_tracked", "_index", "_mask")))
        assert weights == sum(leaf.size for leaf in jax.tree.leaves(shapes)), name
