from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acmix_jax
from acmix_jax.backbones.resnet import ResNet, Variant


def test_batch_statistics_move_in_training_only():
    model = acmix_jax.create_model("acmix_resnet14_stem1", num_classes=3)
    images = 5 + jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    _, changed = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    before, after = (v["batch_stats"]["backbone"]["stem_norm"]["mean"] for v in (variables, changed))
    assert np.abs(after - before).max() > 0.01
    predict = jax.jit(model.apply)
    logits = predict(variables, images)
    np.testing.assert_allclose(predict(variables, images[:2]), logits[:2], atol=1e-4)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "without_gradient", "with_fixed_statistics"),
    [
        ({"frozen_stages": 2}, ("stem", "stage1", "stage2"), ("stem", "stage1", "stage2")),
        ({"norm_eval": True}, (), ("stem", "stage1", "stage2", "stage3", "stage4")),
        ({}, (), ()),
    ],
)
def test_frozen_parts_get_no_gradient_and_keep_their_statistics(fields, without_gradient, with_fixed_statistics):
    model = ResNet(Variant((1, 1, 1, 1), width=4, stem="stride1"), **fields)
    images = 5 + jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(1), images)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params, statistics):
        maps, changed = model.apply({"params": params, **statistics}, images, train=True, mutable=["batch_stats"])
        return sum((x**2).sum() for x in maps.values()), changed

    statistics = {"batch_stats": variables["batch_stats"]}
    gradients, changed = gradient(variables["params"], statistics)
    moved = jax.tree.map(lambda a, b: a - b, changed, statistics)["batch_stats"]

    def parts_of_zeros(tree):
        flat = flax.traverse_util.flatten_dict(tree, sep="/")
        parts = {path.split("_")[0] for path in flat}
        return tuple(sorted(p for p in parts if not any(np.any(x) for path, x in flat.items() if path.startswith(p))))

    assert parts_of_zeros(gradients) == tuple(sorted(without_gradient))
    assert parts_of_zeros(moved) == tuple(sorted(with_fixed_statistics))
