from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import acmix_jax


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
