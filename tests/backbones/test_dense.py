"""The backbones as dense tasks have them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.backbones.swin import Swin, Variant
from acmix_jax.errors import UserError
from acmix_jax.layers.attention import WindowAttention
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.ops import neighborhood
from tests.goldens import check, fill, linear, norm, waves
from tests.networks import random_variables

GOLDEN = {  # sum, sum of absolute values, last value
    "c2": (-133.839802302507, 301.972766641118, -0.182818575780061),
    "c3": (26.5686037821733, 138.782238071229, 0.172395762614279),
    "c4": (10.4403064057359, 103.745967016998, 0.254891465634967),
}


def test_swin_for_dense_tasks():
    """The released detection backbone: width 12, depths 2, 2, 2, windows of 4, an image of 37x50 pixels.

    Every map fills no whole windows, and the last one, 3x4, less than one.
    """
    shapes = {"patch_embed.proj.weight": (12, 3, 4, 4)}
    linears, norms = {"patch_embed.proj": (12,)}, {"patch_embed.norm": 12}
    for stage in range(3):
        c = 12 * 2**stage
        norms[f"norm{stage}"] = c
        for block in (f"layers.{stage}.blocks.{i}" for i in (0, 1)):
            linears |= {f"{block}.attn.qkv": (3 * c, c), f"{block}.attn.proj": (c, c)}
            linears |= {f"{block}.mlp.fc1": (4 * c, c), f"{block}.mlp.fc2": (c, 4 * c)}
            norms |= {f"{block}.norm1": c, f"{block}.norm2": c}
            shapes[f"{block}.attn.relative_position_bias_table"] = (49, 3)
        if stage < 2:
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * c, 4 * c)
            norms[f"layers.{stage}.downsample.norm"] = 4 * c
    shapes |= {f"{name}.weight": shape for name, shape in linears.items() if len(shape) == 2}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    shapes |= {f"{name}.{leaf}": (c,) for name, c in norms.items() for leaf in ("weight", "bias")}
    assert len(shapes) == 94
    t = fill(shapes)

    weight = t["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    params = {"patch_embed": {"kernel": weight, "bias": t["patch_embed.proj.bias"]}}
    params["patch_norm"] = norm(t, "patch_embed.norm")
    for stage in range(3):
        params[f"c{stage + 2}_norm"] = norm(t, f"norm{stage}")
        for i in (0, 1):
            block = f"layers.{stage}.blocks.{i}"
            table = {"relative_position_bias": t[f"{block}.attn.relative_position_bias_table"]}
            parts = {"qkv": linear(t, f"{block}.attn.qkv"), "proj": linear(t, f"{block}.attn.proj")}
            params[f"stage{stage + 1}_block{i + 1}"] = {
                "norm1": norm(t, f"{block}.norm1"),
                "mixer": {**parts, "attention": table},
                "norm2": norm(t, f"{block}.norm2"),
                "mlp": {"fc1": linear(t, f"{block}.mlp.fc1"), "fc2": linear(t, f"{block}.mlp.fc2")},
            }
        if stage < 2:
            merge = f"layers.{stage}.downsample"
            reduction = {"kernel": t[f"{merge}.reduction.weight"].T}
            params[f"stage{stage + 2}_merge"] = {"norm": norm(t, f"{merge}.norm"), "reduction": reduction}

    kind = partial(WindowAttention, window_size=4)
    mixer = partial(SelfAttention, num_heads=3, attention_kind=kind, use_proj=True)
    with jax.enable_x64(True):
        backbone = Swin(Variant(12, (2, 2, 2), (3, 3, 3), window_size=4), (mixer,) * 3,
                        dtype=jnp.float64, norm_outputs=True)  # fmt: skip
        maps = jax.jit(backbone.apply)({"params": params}, waves(1, 3, 37, 50).transpose(0, 2, 3, 1))
    for name, golden in GOLDEN.items():
        out = np.asarray(maps[name]).transpose(0, 3, 1, 2)
        check(out, golden, out.reshape(-1)[:3], [(-1, -1, -1, -1)])


def test_pvt_for_dense_tasks_has_no_class_token():
    """It differs in the last stage alone, and the position of the token, which stays in the table, is not read."""
    backbone, dense = (acmix_jax.create_backbone("pvt_micro_patch2", dense=dense) for dense in (False, True))
    images = np.random.default_rng(0).normal(size=(1, 32, 40, 3)).astype(np.float32)
    params = random_variables("pvt_micro_patch2")["params"]["backbone"]
    without = {path: leaf for path, leaf in params.items() if path != "class_token"}
    position = without["stage4_position"] = without["stage4_position"].copy()
    position[:, 0] = np.nan
    assert jax.tree.map(np.shape, without) == jax.tree.map(
        np.shape, jax.eval_shape(dense.init, jax.random.key(0), images)["params"]
    )
    maps, expected = jax.jit(lambda a, b: (dense.apply({"params": a}, images), backbone.apply({"params": b}, images)))(
        without, params
    )
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    for name in ("c2", "c3", "c4"):
        np.testing.assert_allclose(maps[name], expected[name], atol=1e-5)
    assert np.isfinite(maps["c5"]).all()
    assert np.abs(maps["c5"] - expected["c5"]).max() > 1e-3


@pytest.mark.parametrize("name", ["acmix_resnet14_stem1", "san5_stem1_pairwise"])
def test_the_position_term_of_the_pretrained_size_stays(name, monkeypatch):
    """Each layer is asked for the distances of the map that it has in an image of that size."""
    variables, images, maps = random_variables(name), jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32), {}

    def record(height, width, dtype, size):
        maps.setdefault(size, []).append(height)
        return neighborhood.position_map(height, width, dtype, size)

    monkeypatch.setattr("acmix_jax.layers.attention.position_map", record)
    for size in (None, 33):
        jax.eval_shape(acmix_jax.create_model(name, 10, position_size=size).apply, variables, images)
    assert {size: {size} for size in maps.pop(None)} == {size: set(sizes) for size, sizes in maps.items()}


def test_a_network_without_a_position_term_takes_no_size_for_it():
    with pytest.raises(UserError, match="san10 has no position term; .* or use san10_pairwise"):
        acmix_jax.create_model("acmix_san10", position_size=224)
    with pytest.raises(UserError, match="position_size=0 is not valid"):
        acmix_jax.create_model("acmix_resnet50", position_size=0)
