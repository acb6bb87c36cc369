"""UperNet with a plain Swin against that of PyTorch's `transformers`, logits of both heads: the same random weights."""

import jax
import pytest
import torch
import transformers

import acmix_jax
from acmix_jax.convert import from_torch
from tests.parity.parity_networks import TOLERANCE, difference, randomise, released_state, swin_names

DEPTHS = (2, 2, 6, 2)


def upernet():
    """Theirs, with narrow heads, and its names for mmsegmentation's modules."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    model = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=transformers.SwinConfig(depths=DEPTHS, out_features=stages),
            hidden_size=64,
            auxiliary_channels=32,
            auxiliary_in_channels=None,
            num_labels=11,
        )
    )
    model.backbone.swin.layernorm = torch.nn.Identity()  # of the classifier, without use here
    names = swin_names(DEPTHS) | {f"norm{i}": f"hidden_states_norms.{stage}" for i, stage in enumerate(stages)}
    names = {f"backbone.{ours}": " ".join(f"backbone.{x}" for x in theirs.split()) for ours, theirs in names.items()}
    modules = [f"decode_head.{kind}_convs.{i}" for kind in ("lateral", "fpn") for i in range(3)]
    modules += [f"decode_head.psp_modules.{i}.1" for i in range(4)]
    for module in [*modules, "decode_head.bottleneck", "decode_head.fpn_bottleneck", "auxiliary_head.convs.0"]:
        names |= {f"{module}.conv": f"{module}.conv", f"{module}.bn": f"{module}.batch_norm"}
    return model, names | {f"{head}.conv_seg": f"{head}.classifier" for head in ("decode_head", "auxiliary_head")}


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (256, 320),  # whole patches, no whole windows
        (250, 310),  # odd sizes at every level; their maps of a window or less are not shifted, so none is that small
    ],
)
@torch.no_grad()
def test_upernet(height, width):
    torch.manual_seed(0)
    theirs, names = upernet()
    theirs.eval()
    randomise(theirs)
    images = torch.randn(2, 3, height, width)
    maps = theirs.backbone.forward(images).feature_maps
    expected = [head(maps).permute(0, 2, 3, 1).numpy() for head in (theirs.decode_head, theirs.auxiliary_head)]

    variables = from_torch("swin_tiny", released_state(theirs, names), head="upernet", head_width=64)
    ours = acmix_jax.create_segmenter("swin_tiny", "upernet", num_classes=11, head_width=64)
    logits, auxiliary = jax.jit(lambda v, x: ours.apply(v, x, method="with_auxiliary"))(
        variables, images.permute(0, 2, 3, 1).numpy()
    )
    differences = [difference(a, b) for a, b in zip([logits, *auxiliary], expected, strict=True)]
    assert max(differences) <= TOLERANCE, differences
