"""Segmenters under mmsegmentation's names, as the released code of PVT and Swin uses it."""

import flax
import numpy as np
import pytest

from acmix_jax.convert import from_torch, to_torch
from acmix_jax.convert.state_dict import variable_shapes
from acmix_jax.errors import UserError
from tests.networks import draw, segmenter_shapes

BUFFERS = ("num_batches_tracked", "relative_position_index")


def with_norms(modules):
    leaves = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    return {f"{module}.{leaf}" for module in modules for leaf in leaves}


def with_biases(modules):
    return {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


HEADS = {
    "semantic_fpn": with_biases([f"neck.{kind}_convs.{i}.conv" for kind in ("lateral", "fpn") for i in range(4)])
    | with_norms([f"decode_head.scale_heads.{level}" for level in ("0.0", "1.0", "2.0", "2.2", "3.0", "3.2", "3.4")])
    | with_biases(["decode_head.conv_seg"]),
    "upernet": with_norms([f"decode_head.{kind}_convs.{i}" for kind in ("lateral", "fpn") for i in range(3)])
    | with_norms([f"decode_head.psp_modules.{i}.1" for i in range(4)])
    | with_norms(["decode_head.bottleneck", "decode_head.fpn_bottleneck", "auxiliary_head.convs.0"])
    | with_biases(["decode_head.conv_seg", "auxiliary_head.conv_seg"]),
}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("acmix_swin_micro_patch2", "upernet"),
        ("acmix_pvt_micro_patch2", "semantic_fpn"),
        ("acmix_resnet14_stem1", "upernet"),
        ("san5_stem1_pairwise", "semantic_fpn"),
    ],
)
def test_back_and_forth(name, head):
    """Number of classes and width of the heads are not those of the default."""
    variables = draw(segmenter_shapes(name, head))
    tensors = to_torch(name, variables, num_batches_tracked=7)
    assert {key for key in tensors if not key.startswith("backbone.")} == HEADS[head]
    state = {"meta": {"epoch": 3}, "state_dict": tensors}
    back = flax.traverse_util.flatten_dict(from_torch(name, state, head=head, head_width=8), sep="/")
    expected = flax.traverse_util.flatten_dict(variables, sep="/")
    assert back.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(back[path], leaf, strict=True)


@pytest.mark.parametrize(
    ("name", "head", "shapes"),
    [
        (
            "swin_tiny",
            "upernet",
            {
                "backbone.norm0.weight": (96,), "backbone.norm3.bias": (768,),
                "backbone.layers.0.blocks.1.attn.relative_position_index": (49, 49),
                "decode_head.psp_modules.3.1.conv.weight": (512, 768, 1, 1),
                "decode_head.bottleneck.conv.weight": (512, 768 + 4 * 512, 3, 3),
                "decode_head.lateral_convs.2.conv.weight": (512, 384, 1, 1),
                "decode_head.fpn_bottleneck.conv.weight": (512, 2048, 3, 3),
                "decode_head.conv_seg.weight": (150, 512, 1, 1),
                "auxiliary_head.convs.0.conv.weight": (256, 384, 3, 3),
                "auxiliary_head.conv_seg.weight": (150, 256, 1, 1),
            },
        ),
        (
            "pvt_tiny",
            "semantic_fpn",
            {
                "backbone.pos_embed4": (1, 50, 512), "backbone.block1.0.attn.sr.weight": (64, 64, 8, 8),
                "neck.lateral_convs.2.conv.weight": (256, 320, 1, 1), "neck.fpn_convs.3.conv.weight": (256, 256, 3, 3),
                "decode_head.scale_heads.0.0.conv.weight": (128, 256, 3, 3),
                "decode_head.scale_heads.3.4.conv.weight": (128, 128, 3, 3),
                "decode_head.conv_seg.bias": (150,),
            },
        ),
    ],
)  # fmt: skip
def test_names_and_shapes_are_those_of_mmsegmentation(name, head, shapes):
    blank = {
        path: np.broadcast_to(np.float32(0), leaf.shape)
        for path, leaf in flax.traverse_util.flatten_dict(variable_shapes(name, 150, head=head)).items()
    }
    tensors = to_torch(name, flax.traverse_util.unflatten_dict(blank))
    assert {key: tensors[key].shape for key in shapes} == shapes
    assert not [key for key in tensors if key.endswith(("attn_mask", "cls_token")) or key.startswith("backbone.head")]


def test_every_difference_is_listed():
    tensors = to_torch("swin_micro_patch2", draw(segmenter_shapes("swin_micro_patch2", "upernet")))
    del tensors["backbone.norm2.bias"], tensors["decode_head.bottleneck.bn.running_var"]
    tensors["auxiliary_head.conv_seg.bias"] = np.zeros(4, np.float32)
    with pytest.raises(UserError) as error:
        from_torch("swin_micro_patch2", tensors, head="upernet", head_width=8)
    assert str(error.value) == (
        "the state dict is not one of swin_micro_patch2 with upernet: "
        "2 missing: backbone.norm2.bias, decode_head.bottleneck.bn.running_var; "
        "1 of another shape: auxiliary_head.conv_seg.bias (4,) instead of (5,); name the model that it was saved from"
    )


@pytest.mark.parametrize("head", [None, "upernet"])
def test_another_head_is_named_with_what_to_set(head):
    tensors = to_torch("swin_micro_patch2", draw(segmenter_shapes("swin_micro_patch2", "semantic_fpn")))
    with pytest.raises(UserError) as error:
        from_torch("swin_micro_patch2", {"state_dict": tensors}, head=head)
    assert str(error.value) == (
        "the state dict is one of a segmenter with semantic_fpn: set head=semantic_fpn "
        "(--head=semantic_fpn in the command)"
    )


def test_a_head_has_a_name():
    with pytest.raises(UserError, match="unknown head 'fpn'"):
        from_torch("swin_micro_patch2", {"x": np.zeros(1)}, head="fpn")
