"""Names of the tensors in the released PyTorch code, by family.

A rule maps the path of one of our modules, or of a parameter that stands alone, to its PyTorch name. `{stage}` and
`{block}` are numbers, `{stage-1}` is one less, `{2*stage-1}` one less than its double. Several names mean that PyTorch
keeps apart what is one kernel here; the number after each colon is its share of the outputs.

ResNet: torchvision and LeapLabTHU/ACmix. SAN: hszhao/SAN. PVT: whai362/PVT. Swin: microsoft/Swin-Transformer and
LeapLabTHU/ACmix. No code of SAN-ACmix and PVT-ACmix was released; their names (fc, dep_conv, rate1, rate2) follow
those of Swin-ACmix. timm and torchvision name ResNet's tensors as released, and Swin's in ways of their own.

Segmenters: mmsegmentation 0.11, as whai362/PVT and SwinTransformer/Swin-Transformer-Semantic-Segmentation use it, with
the released names inside the backbone.
"""

import re
from typing import NamedTuple

from acmix_jax.heads.upernet import POOLS


class Layout(NamedTuple):
    """The names of one family.

    Attributes:
      rules: path to name, see above; a path is relative to "backbone", or starts with "/".
      conv1x1: regular expression of the modules whose kernel is `[O, I, 1, 1]` in PyTorch and `[I, O]` here.
      stem: module whose kernel's second axis is the number of image channels.
      heads: modules that make logits.
    """

    rules: dict[str, str]
    conv1x1: str
    stem: str
    heads: tuple[str, ...]

    def name(self, path: str) -> list[tuple[str, int]]:
        """The PyTorch names, with their shares, for a path such as "backbone/stage1_block1/norm1"."""
        for rule, names in self.rules.items():
            pattern = rule[1:] if rule.startswith("/") else f"backbone/{rule}"
            if match := re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>\\d+)", pattern), path):
                parts = [part.partition(":") for part in _fill(names, match).split()]
                return [(name, int(share or 1)) for name, _, share in parts]
        raise KeyError(path)


def _fill(names: str, numbers: re.Match) -> str:
    def value(match):
        return str(int(match[1] or 1) * int(numbers[match[2]]) + int(match[3] or 0))

    return re.sub(r"\{(?:(\d)\*)?(\w+)(-\d)?\}", value, names)


_BLOCK = "stage{stage}_block{block}/"


def _in_block(prefix: str, rules: dict[str, str]) -> dict[str, str]:
    return {_BLOCK + path: " ".join(prefix + name for name in names.split()) for path, names in rules.items()}


def _acmix(module: str) -> dict[str, str]:
    """The parameters that are ACmix's own, inside a mixing layer of this name."""
    names = {"fc": "fc", "shift": "dep_conv", "alpha": "rate1", "beta": "rate2"}
    return {f"mixer/{path}": f"{module}.{name}" for path, name in names.items()}


_TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "mixer/proj": "attn.proj",
    **_acmix("attn"),
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}

LAYOUTS = {
    "resnet": Layout(
        {
            "stem_conv": "conv1",
            "stem_norm": "bn1",
            **_in_block(
                "layer{stage}.{block-1}.",
                {
                    "conv1": "conv1",
                    "norm1": "bn1",
                    "mixer": "conv2",
                    "mixer/qkv": "conv2.conv1 conv2.conv2 conv2.conv3",
                    "mixer/attention/position": "conv2.conv_p",
                    **_acmix("conv2"),
                    "norm2": "bn2",
                    "conv3": "conv3",
                    "norm3": "bn3",
                    "shortcut_conv": "downsample.0",
                    "shortcut_norm": "downsample.1",
                },
            ),
            "/head": "fc",
        },
        conv1x1=r"(?!fc$).*",
        stem="conv1",
        heads=("fc",),
    ),
    "san": Layout(
        {
            "stem_conv": "conv_in",
            "stem_norm": "bn_in",
            "stage{stage}_conv": "conv{stage-1}",
            "stage{stage}_norm": "bn{stage-1}",
            **_in_block(
                "layer{stage-1}.{block-1}.",
                {
                    "norm1": "bn1",
                    "mixer/qkv": "sam.conv1:1 sam.conv2:1 sam.conv3:4",
                    "mixer/attention/position": "sam.conv_p",
                    "mixer/attention/norm1": "sam.conv_w.0",
                    "mixer/attention/weight1": "sam.conv_w.2",
                    "mixer/attention/norm2": "sam.conv_w.3",
                    "mixer/attention/weight2": "sam.conv_w.5",
                    **_acmix("sam"),
                    "norm2": "bn2",
                    "conv": "conv",
                },
            ),
            "/head": "fc",
        },
        conv1x1=r"(?!fc$).*",
        stem="conv_in",
        heads=("fc",),
    ),
    "pvt": Layout(
        {
            "stage{stage}_embed": "patch_embed{stage}.proj",
            "stage{stage}_embed_norm": "patch_embed{stage}.norm",
            "stage{stage}_position": "pos_embed{stage}",
            "class_token": "cls_token",
            **_in_block(
                "block{stage}.{block-1}.",
                {
                    **_TRANSFORMER_BLOCK,
                    "mixer/qkv": "attn.q:1 attn.kv:2",
                    "mixer/reduce": "attn.sr",
                    "mixer/reduce_norm": "attn.norm",
                },
            ),
            "/norm": "norm",
            "/head": "head",
        },
        conv1x1=r".*\.fc",
        stem="patch_embed1.proj",
        heads=("head",),
    ),
    "swin": Layout(
        {
            "patch_embed": "patch_embed.proj",
            "patch_norm": "patch_embed.norm",
            "c{map}_norm": "norm{map-2}",
            "stage{stage}_merge/norm": "layers.{stage-2}.downsample.norm",
            "stage{stage}_merge/reduction": "layers.{stage-2}.downsample.reduction",
            **_in_block(
                "layers.{stage-1}.blocks.{block-1}.",
                {
                    **_TRANSFORMER_BLOCK,
                    "mixer/qkv": "attn.qkv",
                    "mixer/attention/relative_position_bias": "attn.relative_position_bias_table",
                },
            ),
            "/norm": "norm",
            "/head": "head",
        },
        conv1x1=r".*\.fc",
        stem="patch_embed.proj",
        heads=("head",),
    ),
}

_SWIN = LAYOUTS["swin"]

OTHER_LAYOUTS = {
    "swin": {
        "timm": _SWIN._replace(
            rules={
                **_SWIN.rules,
                "stage{stage}_merge/norm": "layers.{stage-1}.downsample.norm",
                "stage{stage}_merge/reduction": "layers.{stage-1}.downsample.reduction",
                "/head": "head.fc",
            },
            conv1x1=r".*attn\.fc",
            heads=("head.fc",),
        ),
        "torchvision": _SWIN._replace(
            rules={
                "patch_embed": "features.0.0",
                "patch_norm": "features.0.2",
                "stage{stage}_merge/norm": "features.{2*stage-2}.norm",
                "stage{stage}_merge/reduction": "features.{2*stage-2}.reduction",
                **_in_block(
                    "features.{2*stage-1}.{block-1}.",
                    {
                        **_TRANSFORMER_BLOCK,
                        "mixer/qkv": "attn.qkv",
                        "mixer/attention/relative_position_bias": "attn.relative_position_bias_table",
                        "mlp/fc1": "mlp.0",
                        "mlp/fc2": "mlp.3",
                    },
                ),
                "/norm": "norm",
                "/head": "head",
            },
            stem="features.0.0",
        ),
    },
}
"""Names that others gave the same tensors: by family, and by who gave them. Only read, never written."""


def _conv_norms(modules: dict[str, str]) -> dict[str, str]:
    """The convolution and the norm in each of mmcv's ConvModules."""
    kinds = (("conv", "conv"), ("norm", "bn"))
    return {f"{path}/{ours}": f"{name}.{theirs}" for path, name in modules.items() for ours, theirs in kinds}


_HEADS = {
    "semantic_fpn": {
        "/neck/lateral_c{level}": "neck.lateral_convs.{level-2}.conv",
        "/neck/output_p{level}": "neck.fpn_convs.{level-2}.conv",
        **_conv_norms({"/head/p{level}_conv{conv}": "decode_head.scale_heads.{level-2}.{2*conv-2}"}),
        "/head/classifier": "decode_head.conv_seg",
    },
    "upernet": {
        **_conv_norms(
            {
                **{f"/head/pool{side}": f"decode_head.psp_modules.{i}.1" for i, side in enumerate(POOLS)},
                "/head/bottleneck": "decode_head.bottleneck",
                "/head/lateral_c{level}": "decode_head.lateral_convs.{level-2}",
                "/head/output_c{level}": "decode_head.fpn_convs.{level-2}",
                "/head/fpn_bottleneck": "decode_head.fpn_bottleneck",
                "/auxiliary/conv{conv}": "auxiliary_head.convs.{conv-1}",
            }
        ),
        "/head/classifier": "decode_head.conv_seg",
        "/auxiliary/classifier": "auxiliary_head.conv_seg",
    },
}

HEAD_MARKS = {"semantic_fpn": "decode_head.scale_heads.", "upernet": "decode_head.psp_modules."}
"""Names that only segmenters with this head have."""


def segmenter_layout(backbone: Layout, head: str) -> Layout:
    """The names of a segmenter with this head, whose backbone has the names of a classifier with this layout."""
    rules = {
        path: " ".join(f"backbone.{name}" for name in names.split())
        for path, names in backbone.rules.items()
        if not path.startswith("/")
    }
    return Layout(
        rules | _HEADS[head],
        conv1x1=rf"backbone\.({backbone.conv1x1})|(neck|decode_head|auxiliary_head)\..*",
        stem=f"backbone.{backbone.stem}",
        heads=tuple(name for path, name in _HEADS[head].items() if path.endswith("/classifier")),
    )
