"""Segmentation networks: shapes, parts and initialisation."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.errors import UserError
from tests.networks import draw, segmenter_shapes

IMAGES = jax.ShapeDtypeStruct((2, 38, 45, 3), jnp.float32)
NETWORKS = {
    "acmix_resnet14_stem1": "upernet",
    "acmix_san5_stem1": "semantic_fpn",
    "acmix_pvt_micro_patch2": "semantic_fpn",
    "acmix_swin_micro_patch2": "upernet",
}


@pytest.mark.parametrize(("name", "head"), list(NETWORKS.items()))
def test_every_backbone_takes_every_head(name, head):
    """Logits have the size of c2 and are float32, the auxiliary ones that of c4; types are not promoted silently."""
    model = acmix_jax.create_segmenter(name, head, num_classes=7, head_width=8)
    variables = segmenter_shapes(name, head, 7)
    options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}

    def run(variables, images):
        maps = model.apply(variables, images, method="features")
        return maps, model.apply(variables, images), model.apply(variables, images, method="with_auxiliary", **options)

    with jax.numpy_dtype_promotion("strict"):
        maps, logits, ((same, auxiliary), _) = jax.eval_shape(run, variables, IMAGES)
    expected = ["c2", "c4"] if head == "upernet" else ["c2"]
    assert [x.shape for x in (same, *auxiliary)] == [(*maps[name].shape[:3], 7) for name in expected]
    assert logits == same
    assert {x.dtype for x in (same, *auxiliary)} == {jnp.dtype("float32")}
    parts = {"semantic_fpn": {"neck"}, "upernet": {"auxiliary"}}[head]
    assert variables["params"].keys() == {"backbone", "head"} | parts


@pytest.mark.parametrize("part", ["neck", "head", "auxiliary"])
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
def test_initialisation(head, part):
    """As mmcv does it: convolutions before a norm fan out, those of the FPN are Xavier's, logits start at 0.01."""
    module = getattr(acmix_jax.create_segmenter("swin_micro_patch2", head, head_width=32), part)
    if module is None:
        return
    kind = "p" if head == "semantic_fpn" and part == "head" else "c"
    maps = {f"{kind}{level}": jnp.zeros((1, 2 ** (6 - level), 2 ** (6 - level), 64)) for level in range(2, 6)}
    params = jax.jit(module.init)(jax.random.key(0), maps)["params"]
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        if path.endswith("bias"):
            assert not leaf.any(), path
        elif path.endswith("scale"):
            assert (leaf == 1).all(), path
        elif part == "neck":
            fan_in, fan_out = (np.prod(leaf.shape) / leaf.shape[axis] for axis in (-1, -2))
            bound = np.sqrt(6 / (fan_in + fan_out))
            assert 0.9 * bound < np.abs(leaf).max() <= bound, path
        else:
            std = 0.01 if "classifier" in path else np.sqrt(2 * leaf.shape[-2] / np.prod(leaf.shape))
            assert leaf.std() == pytest.approx(std, rel=0.1), path


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
def test_64_bits_change_no_type(head):
    model = acmix_jax.create_segmenter("resnet14_stem1", head, head_width=8)
    with jax.enable_x64(True):
        run = partial(model.init_with_output, method="with_auxiliary")
        leaves = jax.tree.leaves(jax.eval_shape(run, jax.random.key(0), IMAGES))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_dropout_drops_whole_channels_in_training_only():
    model = acmix_jax.create_segmenter("resnet14_stem1", head_width=8, num_classes=2)
    variables = draw(segmenter_shapes("resnet14_stem1", "semantic_fpn", 2))
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    train = jax.jit(lambda key: model.apply(variables, images, True, rngs={"dropout": key}, mutable=["batch_stats"])[0])
    one, two = train(jax.random.key(1)), train(jax.random.key(2))
    assert np.abs(one - two).max() > 1e-3
    predict = jax.jit(model.apply)
    np.testing.assert_array_equal(predict(variables, images), predict(variables, images))


def test_heads_are_found_by_nearness():
    with pytest.raises(UserError, match="unknown head 'uper_net'; did you mean upernet"):
        acmix_jax.create_segmenter("swin_tiny", head="uper_net")
