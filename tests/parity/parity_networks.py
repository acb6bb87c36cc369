"""Plain networks against those of PyTorch's `transformers`, stage by stage: the same random weights in both.

`make parity` runs this folder. `make test`, which has no PyTorch, passes over files of this name.
"""

import math
import os
import re
from functools import partial

os.environ["HF_HUB_OFFLINE"] = "1"  # configurations and random weights are all that is needed

import jax
import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import interpolate

import acmix_jax
from acmix_jax.convert import from_torch, to_torch
from acmix_jax.convert.state_dict import variable_shapes

torch.set_num_threads(1)  # pytest-xdist starts a worker for each core

TOLERANCE = 1e-4  # of the largest value in the map; both compute in float32


def resnet():
    depths = (3, 4, 6, 3)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            depths=depths,
            layer_type="bottleneck",
            downsample_in_bottleneck=False,  # but in its 3x3 layer
            num_labels=1000,
        )
    )
    names = {
        "conv1": "resnet.embedder.embedder.convolution",
        "bn1": "resnet.embedder.embedder.normalization",
        "fc": "classifier.1",
    }
    for stage, block in blocks(depths):
        released, theirs = f"layer{stage + 1}.{block}", f"resnet.encoder.stages.{stage}.layers.{block}"
        for n in range(3):
            names[f"{released}.conv{n + 1}"] = f"{theirs}.layer.{n}.convolution"
            names[f"{released}.bn{n + 1}"] = f"{theirs}.layer.{n}.normalization"
        if block == 0:
            names[f"{released}.downsample.0"] = f"{theirs}.shortcut.convolution"
            names[f"{released}.downsample.1"] = f"{theirs}.shortcut.normalization"

    def run(images):
        output = model(images, output_hidden_states=True)
        return output.logits, [x.permute(0, 2, 3, 1) for x in output.hidden_states[1:]]

    return model, names, run


def pvt(depths):
    model = transformers.PvtForImageClassification(transformers.PvtConfig(depths=depths, num_labels=1000))
    names = {"cls_token": "pvt.encoder.patch_embeddings.3.cls_token"}
    for stage, embedding in enumerate(model.pvt.encoder.patch_embeddings):
        released, theirs = f"patch_embed{stage + 1}", f"pvt.encoder.patch_embeddings.{stage}"
        names[f"pos_embed{stage + 1}"] = f"{theirs}.position_embeddings"
        names[f"{released}.proj"] = f"{theirs}.projection"
        names[f"{released}.norm"] = f"{theirs}.layer_norm"
        # Their own one takes the table for one of the new size, and fails unless that is the trained size.
        embedding.interpolate_pos_encoding = released_interpolation
        embedding.layer_norm.eps = 1e-5  # as in the released code; the config sets 1e-6 for all
    for stage, block in blocks(depths):
        released, theirs = f"block{stage + 1}.{block}", f"pvt.encoder.block.{stage}.{block}"
        names[f"{released}.norm1"] = f"{theirs}.layer_norm_1"
        names[f"{released}.attn.q"] = f"{theirs}.attention.self.query"
        names[f"{released}.attn.kv"] = f"{theirs}.attention.self.key {theirs}.attention.self.value"
        if stage < 3:
            names[f"{released}.attn.sr"] = f"{theirs}.attention.self.sequence_reduction"
            names[f"{released}.attn.norm"] = f"{theirs}.attention.self.layer_norm"
            model.get_submodule(names[f"{released}.attn.norm"]).eps = 1e-5  # likewise
        names[f"{released}.attn.proj"] = f"{theirs}.attention.output.dense"
        names[f"{released}.norm2"] = f"{theirs}.layer_norm_2"
        names[f"{released}.mlp.fc1"] = f"{theirs}.mlp.dense1"
        names[f"{released}.mlp.fc2"] = f"{theirs}.mlp.dense2"
    names |= {"norm": "pvt.encoder.layer_norm", "head": "classifier"}

    def run(images):
        output = model(images, output_hidden_states=True)  # a state after each block, and one after the last norm
        maps, (rows, columns) = [], (size // 2 for size in images.shape[2:])
        for last_block in np.cumsum(depths) - 1:
            rows, columns = rows // 2, columns // 2
            tokens = output.hidden_states[last_block][:, -rows * columns :]  # without the class token
            maps.append(tokens.reshape(len(images), rows, columns, -1))
        return output.logits, maps

    return model, names, run


def released_interpolation(places, height, width):
    """Of a square table `[1, size**2, C]`: as PVT's released code does it."""
    size = math.isqrt(places.shape[1])
    places = places.reshape(1, size, size, -1).permute(0, 3, 1, 2)
    return interpolate(places, size=(height, width), mode="bilinear").flatten(2).transpose(1, 2)


def swin():
    depths = (2, 2, 6, 2)
    model = transformers.SwinForImageClassification(transformers.SwinConfig(depths=depths, num_labels=1000))
    names = swin_names(depths) | {"norm": "swin.layernorm", "head": "classifier"}

    def run(images):
        output = model(images, output_hidden_states=True, output_hidden_states_before_downsampling=True)
        return output.logits, [x.permute(0, 2, 3, 1) for x in output.reshaped_hidden_states[1:]]

    return model, names, run


def swin_names(depths):
    """Of the modules in the backbone."""
    names = {
        "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
        "patch_embed.norm": "swin.embeddings.norm",
    }
    for stage, block in blocks(depths):
        released, theirs = f"layers.{stage}.blocks.{block}", f"swin.encoder.layers.{stage}.blocks.{block}"
        table = "relative_position_bias_table"
        names[f"{released}.norm1"] = f"{theirs}.layernorm_before"
        names[f"{released}.attn.qkv"] = " ".join(f"{theirs}.attention.{part}_proj" for part in "qkv")
        names[f"{released}.attn.{table}"] = f"{theirs}.attention.relative_position_bias.{table}"
        names[f"{released}.attn.proj"] = f"{theirs}.attention.o_proj"
        names[f"{released}.norm2"] = f"{theirs}.layernorm_after"
        names[f"{released}.mlp.fc1"] = f"{theirs}.mlp.fc1"
        names[f"{released}.mlp.fc2"] = f"{theirs}.mlp.fc2"
    for stage in range(3):
        for layer in ("reduction", "norm"):
            names[f"layers.{stage}.downsample.{layer}"] = f"swin.encoder.layers.{stage}.downsample.{layer}"
    return names


def blocks(depths):
    return [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]


# What these make is next seen by a norm, perhaps as part of a sum. PVT's later projections start from what is small.
BEFORE_NORM = (
    r"convolution|\.conv\.weight|running_mean|embeddings\.(0\.)?projection|projection\.bias|embeddings.*norm|position_embeddings"
    r"|cls_token|sequence_reduction|output\.dense|o_proj|dense2|fc2|downsample\.reduction"
)


def randomise(model):
    """Leaves no scale, bias, statistic or position at 0 or 1; norms get inputs so small that their epsilon counts."""
    for name, tensor in model.state_dict().items():
        if name.endswith("weight") and tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5)
        elif name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif not name.endswith("num_batches_tracked"):
            tensor.normal_(std=0.5)
        if re.search(BEFORE_NORM, name):
            tensor *= 0.01
        elif name.endswith("running_var"):
            tensor *= 0.01**2


def released_state(model, names):
    """The model's state dict in the released names; several of its tensors may make one, as keys and values do."""
    tensors = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    state = {}
    for name, sources in names.items():
        for leaf in ("", ".weight", ".bias", ".running_mean", ".running_var"):
            parts = [tensors.pop(source + leaf) for source in sources.split() if source + leaf in tensors]
            if parts:
                state[name + leaf] = torch.cat(parts)
    assert not tensors
    return state


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


NETWORKS = {
    "resnet50": resnet,
    "pvt_tiny": partial(pvt, (2, 2, 2, 2)),
    "pvt_small": partial(pvt, (3, 4, 6, 3)),
    "swin_tiny": swin,
}


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("resnet50", 224, 224),
        ("resnet50", 211, 157),  # odd maps before the strides
        ("pvt_tiny", 224, 224),
        ("pvt_tiny", 250, 198),  # patches and reductions leave rows and columns over
        ("pvt_small", 224, 224),
        ("pvt_small", 256, 192),
        ("swin_tiny", 224, 224),
        ("swin_tiny", 224, 320),  # one side of the last map is a window's
        ("swin_tiny", 288, 256),  # zeros fill windows
        ("swin_tiny", 250, 310),  # and patches, and the pixels to merge
    ],
)
@torch.no_grad()
def test_network(name, height, width):
    torch.manual_seed(0)
    theirs, names, run = NETWORKS[name]()
    theirs.eval()
    randomise(theirs)
    images = torch.randn(2, 3, height, width)
    their_logits, their_maps = run(images)

    ours = acmix_jax.create_model(name)
    variables = from_torch(name, released_state(theirs, names))
    logits, maps = jax.jit(lambda v, x: (ours.apply(v, x), ours.apply(v, x, method="features")))(
        variables, images.permute(0, 2, 3, 1).numpy()
    )
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    differences = {key: difference(maps[key], x.numpy()) for key, x in zip(maps, their_maps, strict=True)}
    differences["logits"] = difference(logits, their_logits.numpy())
    assert all(value <= TOLERANCE for value in differences.values()), differences


def test_buffers_of_swin():
    """The converter makes what the released state dict holds beside the weights."""
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes("swin_tiny", num_classes=10))
    state = to_torch("swin_tiny", blank)
    theirs, _, _ = swin()
    for stage, layer in enumerate(theirs.swin.encoder.layers):
        for block, module in enumerate(layer.blocks):
            size, prefix = 56 // 2**stage, f"layers.{stage}.blocks.{block}."
            module.set_shift_and_window_size((size, size))
            mask = module.get_attn_mask(size, size, torch.float32, "cpu")
            index = module.attention.relative_position_bias.relative_position_index.reshape(49, 49)
            np.testing.assert_array_equal(state[f"{prefix}attn.relative_position_index"], index, strict=True)
            assert (f"{prefix}attn_mask" in state) == (mask is not None)
            if mask is not None:
                np.testing.assert_array_equal(state[f"{prefix}attn_mask"], mask, strict=True)
