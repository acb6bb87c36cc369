from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import acmix_jax
from acmix_jax.errors import UserError
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.ops import shift

SIZES = [(8, 8), (7, 9), (5, 5), (2, 3), (1, 1)]
FIELDS = [{}, {"stride": 2}, {"dilation": 2}, {"kernel_size": 1}, {"kernel_size": 5, "stride": 3}]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", FIELDS)
def test_any_size_gives_the_size_of_a_convolution(size, fields):
    x = jax.ShapeDtypeStruct((2, *size, 6), jnp.float32)
    out, _ = jax.eval_shape(acmix_jax.ACmix(8, **fields).init_with_output, jax.random.key(0), x)
    stride = fields.get("stride", 1)
    assert out.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 8)


@pytest.mark.parametrize(("size", "fields"), list(zip(SIZES, [*FIELDS[1:], {"stride": 2}], strict=True)))
def test_any_size_computes(size, fields):
    x = jax.random.normal(jax.random.key(0), (2, *size, 6))
    out, _ = jax.jit(acmix_jax.ACmix(8, **fields).init_with_output)(jax.random.key(1), x)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("paths", ["attention", "convolution"])
@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, {19, 20, 21}),
        ({"dilation": 2}, {18, 20, 22}),
        ({"stride": 2}, {10}),
        ({"stride": 3}, {7}),
        ({"stride": 2, "dilation": 2}, {9, 10, 11}),
    ],
)
def test_one_pixel_reaches_the_same_outputs_on_both_paths(paths, fields, rows):
    """Output row i sees input rows stride * i + dilation * (-1, 0, 1): both windows are three wide here."""
    attention = partial(LocalAttention, window_size=3)
    layer = acmix_jax.ACmix(8, paths=paths, attention_kind=attention, **fields)
    x = jax.random.normal(jax.random.key(0), (1, 41, 41, 4))
    before, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    after = jax.jit(layer.apply)(variables, x.at[0, 20, 20].add(3.0))
    changed = np.argwhere(np.abs(after - before).max(axis=-1)[0] > 1e-4)
    assert {tuple(place) for place in changed.tolist()} == {(i, j) for i in rows for j in rows}


def test_paths_add_up():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    variables = jax.jit(acmix_jax.ACmix(8).init)(jax.random.key(1), x)
    params = variables["params"] | {"alpha": jnp.float32(0.3), "beta": jnp.float32(-2)}
    attention, convolution, both = (
        jax.jit(acmix_jax.ACmix(8, paths=paths).apply)({"params": params}, x)
        for paths in ("attention", "convolution", "both")
    )
    np.testing.assert_allclose(both, 0.3 * attention - 2 * convolution, atol=1e-5)


@pytest.mark.parametrize("combination", ["learned", "convex", "fixed"])
def test_combinations_start_alike_and_learn_what_they_may(combination):
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    variables = jax.jit(acmix_jax.ACmix(8).init)(jax.random.key(1), x)
    layer = acmix_jax.ACmix(8, combination=combination)

    @jax.jit
    def loss_of(variables):
        return (layer.apply(variables, x) ** 2).sum()

    params = variables["params"]
    free = jax.grad(lambda variables: (acmix_jax.ACmix(8).apply(variables, x) ** 2).sum())(variables)["params"]
    found = jax.grad(loss_of)(variables)["params"]
    alpha, beta, kernel = found["alpha"], found["beta"], found["fc"]["kernel"]
    np.testing.assert_allclose(kernel, free["fc"]["kernel"], rtol=1e-5, atol=1e-5)
    if combination == "learned":
        assert abs(float(alpha - beta)) > 1e-3
    elif combination == "convex":
        assert float(alpha) == -float(beta) != 0
        np.testing.assert_allclose(alpha, (free["alpha"] - free["beta"]) / 2, rtol=1e-4)
        moved = {**params, "alpha": params["alpha"] + 0.2, "beta": params["beta"] - 0.2}  # as a step would
        wanted = (acmix_jax.ACmix(8).apply({"params": moved}, x) ** 2).sum()
        np.testing.assert_allclose(loss_of({"params": moved}), wanted, rtol=1e-5)
    else:
        assert float(alpha) == float(beta) == 0


@pytest.mark.parametrize("shift_form", shift.FORMS)
def test_a_shared_shift_is_one_kernel_for_all_heads(shift_form):
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    fields = {"num_heads": 4, "paths": "convolution", "shift_form": shift_form}
    layer = acmix_jax.ACmix(16, shared_shift=True, shift_init=False, **fields)
    found, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    kernel = variables["params"]["shift"]["kernel"]  # [3, 3, 9, dim]
    assert kernel.shape == (3, 3, 9, 4)
    own = variables["params"] | {"shift": {"kernel": jnp.repeat(kernel, 4, axis=-1)}}
    np.testing.assert_allclose(found, jax.jit(acmix_jax.ACmix(16, **fields).apply)({"params": own}, x), atol=1e-6)
    heads = found.reshape(*found.shape[:3], 4, 4)  # [B, H, W, dim, heads]
    np.testing.assert_allclose(heads, jnp.broadcast_to(heads[..., :1], heads.shape), atol=1e-6)


def test_bias_of_the_position_has_no_gradient():
    """It moves all logits of a window alike, so it cancels out of the softmax."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (1, 6, 6, 8))
        layer = acmix_jax.ACmix(8, dtype=jnp.float64)
        params = jax.tree.map(jnp.float64, jax.jit(layer.init)(jax.random.key(1), x)["params"])
        gradient = jax.jit(jax.grad(lambda p: (layer.apply({"params": p}, x) ** 3).sum()))(params)
        gradient = gradient["attention"]["position"]
        assert np.abs(gradient["bias"]).max() < 1e-12 < 1e-3 < np.abs(gradient["kernel"]).max()


@pytest.mark.parametrize("shift_form", shift.FORMS)
def test_bfloat16_keeps_float32_parameters(shift_form):
    """And its values and gradients stay near those of float32, also where a bias meets the border."""
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 16))
    fields = {"fc_bias": True, "shift_form": shift_form}
    variables = jax.jit(acmix_jax.ACmix(16, **fields).init)(jax.random.key(1), x)

    def both(dtype):
        layer = acmix_jax.ACmix(16, dtype=dtype, **fields)

        def loss(variables, x):
            out = layer.apply(variables, x)
            return (out.astype(jnp.float32) ** 2).mean(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    (_, out), gradients = both(jnp.bfloat16)
    (_, exact), exact_gradients = both(jnp.float32)
    assert out.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves((variables, gradients))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)
    largest = max(jnp.abs(g).max() for g in jax.tree.leaves(exact_gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * largest), gradients, exact_gradients)


def test_shift_init_can_be_turned_off():
    x = jnp.zeros((1, 4, 4, 8))
    on, off = (
        jax.jit(acmix_jax.ACmix(8, shift_init=i).init)(jax.random.key(0), x)["params"]["shift"] for i in (True, False)
    )
    np.testing.assert_array_equal(on["kernel"], shift.shift_kernel(3, 8))
    assert on["kernel"].sum() == 9 * 8
    assert 0 < off["kernel"].std() < 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 10}, "num_heads=4 does not divide features=10; use a divisor of 10"),
        ({"features": 8, "paths": "atention"}, "did you mean attention"),
        ({"features": 8, "kernel_size": 2}, "kernel_size=2 has no centre"),
        ({"features": 8, "shift_form": "slice"}, "did you mean slices"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        acmix_jax.ACmix(**fields).init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))


@pytest.mark.parametrize("fields", [{}, {"attention_kind": partial(LocalAttention, window_size=3)}])
def test_the_layer_is_an_nnx_module_through_the_bridge(fields):
    """A field and a submodule of the same name would break it."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    layer = acmix_jax.ACmix(features=8, num_heads=2, **fields)
    module = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0))
    nnx.bridge.lazy_init(module, x)
    assert module(x).shape == (2, 6, 6, 8)
    gradients = nnx.grad(lambda module: (module(x) ** 2).sum())(module)
    assert len(jax.tree.leaves(gradients)) == len(jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0), x)))
