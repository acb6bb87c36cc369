"""JAX's transformations of layers and networks: forward mode, Hessian-vector products, export with a symbolic batch."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax import ACmix, create_model
from acmix_jax.layers.attention import (
    GlobalAttention,
    LocalAttention,
    PairwiseAttention,
    PatchwiseAttention,
    WindowAttention,
)
from tests.networks import draw, shapes

NETWORKS = (
    "acmix_resnet14_stem1", "acmix_swin_micro_patch2", "acmix_pvt_micro_patch2", "acmix_san5_stem1",
    "acmix_san5_stem1_pairwise",
)  # fmt: skip
LAYERS = {
    "local": ACmix(32, attention_kind=partial(LocalAttention, window_size=3), stride=2),
    "local, recomputed": ACmix(32, attention_kind=partial(LocalAttention, window_size=3, form="recomputed")),
    "local, kernel": ACmix(32, num_heads=2, attention_kind=partial(LocalAttention, window_size=3, form="kernel")),
    "window": ACmix(32, attention_kind=partial(WindowAttention, window_size=3), use_proj=True),
    "global": ACmix(32, attention_kind=GlobalAttention, reduction=2, use_proj=True),
    "patchwise": ACmix(32, qk_heads=1, attention_kind=partial(PatchwiseAttention, window_size=3)),
    "pairwise": ACmix(32, qk_heads=1, attention_kind=partial(PairwiseAttention, window_size=3)),
}


def assert_modes_agree(loss, params, tolerance):
    """By forward and by reverse mode: the derivative along a direction, and the curvature along it."""
    direction = jax.tree.map(lambda p, drawn: drawn.astype(p.dtype), params, draw(params, seed=1))

    @jax.jit
    def both_modes(params, direction):
        def forward(params):
            return jax.jvp(loss, (params,), (direction,))[1]

        def reverse(params):
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss)(params), direction)))

        return tuple((f(params), jax.jvp(f, (params,), (direction,))[1]) for f in (forward, reverse))

    forward, reverse = both_modes(params, direction)
    np.testing.assert_allclose(forward, reverse, rtol=tolerance)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_has_forward_mode_and_second_derivatives(layer):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 32)).astype(np.float32)
    params = draw(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])

    def loss(params):
        out, _ = layer.apply({"params": params}, x, mutable=["batch_stats"])
        return jnp.tanh(out).sum()

    assert_modes_agree(loss, params, 1e-4)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_takes_no_images_at_all(layer):
    x = jnp.zeros((0, 6, 6, 32))
    params = draw(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])

    @jax.jit
    def out_and_gradient(params):
        def loss(params):
            out, _ = layer.apply({"params": params}, x, mutable=["batch_stats"])
            return out.sum(), out

        return jax.grad(loss, has_aux=True)(params)

    gradient, out = out_and_gradient(params)
    assert out.shape[0] == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_forward_mode_and_second_derivatives(name):
    with jax.enable_x64(True):
        model, variables = create_model(name, 10, dtype=jnp.float64), draw(shapes(name, 10))
        variables = jax.tree.map(np.float64, variables)
        images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))

        def loss(params):
            options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
            logits, _ = model.apply({**variables, "params": params}, images, **options)
            return jax.nn.log_softmax(logits)[:, 0].sum()

        assert_modes_agree(loss, variables["params"], 1e-5)  # the logits are float32


@pytest.mark.parametrize("name", [NETWORKS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS[1:])])
def test_a_network_is_exported_with_a_symbolic_batch(name):
    assert export_with_symbolic_batch(name, lambda model, variables, images: model.apply(variables, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_is_exported_with_a_symbolic_batch(name):
    def gradient(model, variables, images):
        return jax.grad(lambda variables: model.apply(variables, images).sum())(variables)

    variables = draw(shapes(name, 10))
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    exported = jax.jit(export_with_symbolic_batch(name, gradient).call)(variables, images)
    expected = jax.jit(partial(gradient, create_model(name, 10)))(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), exported, expected)


def export_with_symbolic_batch(name, function):
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)
    program = jax.jit(partial(function, create_model(name, 10)))
    return jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(shapes(name, 10), images)
