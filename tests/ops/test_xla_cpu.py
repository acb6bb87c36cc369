from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops import shift
from acmix_jax.ops.attention import dot, softmax_attention
from acmix_jax.ops.neighborhood import neighborhood_attention
from acmix_jax.ops.xla_cpu import add_to_each, batched_matmul, dot_general, linear, materialize


@pytest.mark.parametrize("x", [2.0, np.nan, np.inf])
def test_materialize_changes_nothing(x):
    """Not even for NaN, on which the first condition of the loop is true."""
    x = jnp.array([x, -1.0])
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (materialize(x) ** 2).sum()))(x)
    np.testing.assert_array_equal(value, (x**2).sum())
    np.testing.assert_array_equal(gradient, 2 * x)
    np.testing.assert_array_equal(jax.jit(materialize)(x), x)


def test_materialize_has_second_derivatives():
    second = jax.jit(jax.grad(lambda x: jax.grad(lambda x: (materialize(x) ** 3).sum())(x).sum()))
    np.testing.assert_allclose(second(jnp.array([1.0, 2.0])), [6, 12])


def test_materialize_is_seen_by_the_compiler():
    """Two readers of a chain of operations read one array."""

    def program(between):
        def f(x):
            x = between(x + 1)
            return x[1:] * 2, x[:-1] * 3

        return jax.jit(f).lower(jnp.ones(100)).compile().as_text()

    assert " while(" in program(materialize)
    assert " while(" not in program(lambda x: x)


@pytest.mark.parametrize(
    ("wide", "narrow", "tolerance"), [("float64", "float64", 1e-12), ("float32", "bfloat16", 1e-2)]
)
def test_add_to_each_is_a_sum_in_value_and_gradient(wide, narrow, tolerance):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, shared = jnp.asarray(rng.normal(size=(5, 2, 3)), narrow), jnp.asarray(rng.normal(size=(2, 3)), wide)

        def value_and_gradient(f):
            return jax.jit(jax.value_and_grad(lambda *a: (f(*a).astype(wide) ** 2).sum(), argnums=(0, 1)))(x, shared)

        actual = value_and_gradient(add_to_each)
        expected = value_and_gradient(lambda x, shared: x + shared.astype(x.dtype))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected)
        assert [leaf.dtype for leaf in jax.tree.leaves(actual)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]


@pytest.mark.parametrize(
    ("product", "left", "right"),
    [
        (linear, (2, 4, 3, 3), (3, 5)),
        (linear, (2, 4, 3, 5), (5, 3)),
        (batched_matmul, (2, 4, 3), (2, 3, 5)),
    ],
)
def test_products_are_matmul_in_value_and_gradient(product, left, right):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        arguments = [jnp.asarray(rng.normal(size=shape)) for shape in (left, right)]
        weights = jnp.asarray(rng.normal(size=right[-1]))

        @partial(jax.jit, static_argnums=0)
        def value_and_gradient(f, *arguments):
            return jax.value_and_grad(lambda *a: (weights * f(*a) ** 2).sum(), argnums=(0, 1))(*arguments)

        actual, expected = (value_and_gradient(f, *arguments) for f in (product, jnp.matmul))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), actual, expected)


def test_linear_fits_into_dense():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    plain, ours = (nn.Dense(5, dot_general=f) for f in (None, dot_general))
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), rtol=1e-6)


def local_attention(x):
    return neighborhood_attention(x, x, x, form="tiled")


def convolution(form):
    return lambda x: shift.shift_convolution(x, jnp.ones((2, 9)), None, shift.shift_kernel(3, 6), form=form)


FUNCTIONS = {
    "materialize": materialize,
    "add_to_each": lambda x: add_to_each(x, x[0]),
    "linear": lambda x: linear(x, x[0, 0, 0].T),
    "batched_matmul": lambda x: batched_matmul(x[0, 0], x[0, 0].swapaxes(1, 2)),
    "dot": lambda x: dot("...ij,...kj->...ik", x, x),
    "softmax_attention": lambda x: softmax_attention(x, x, x),
    "neighborhood_attention": local_attention,
    "multiply_shift": convolution("multiply_shift"),
}


def text(function, platform):
    x = np.ones((2, 3, 4, 2, 3), np.float32)
    gradient = jax.grad(lambda x: (function(x) ** 2).sum())
    return jax.jit(gradient).trace(x).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("function", [materialize, lambda x: add_to_each(x, x[0])], ids=["materialize", "add_to_each"])
def test_workarounds_are_in_the_programs_of_cpus_only(function, platform):
    assert "stablehlo.while" in text(function, "cpu") or "stablehlo.dot_general" in text(function, "cpu")
    assert "stablehlo.while" not in text(function, platform) and "stablehlo.dot_general" not in text(function, platform)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_all_modes_of_differentiation_agree(function):
    x, tangent = np.random.default_rng(0).normal(size=(2, 1, 3, 4, 2, 3)).astype(np.float32)

    def loss(x):
        return (function(x) ** 2).sum()

    @jax.jit
    def products(x, tangent):
        forward, of_gradient = (jax.jvp(f, (x,), (tangent,))[1] for f in (loss, jax.grad(loss)))
        twice = jax.grad(lambda x: (jax.grad(loss)(x) * tangent).sum())(x)
        return (forward, of_gradient), ((jax.grad(loss)(x) * tangent).sum(), twice)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *products(x, tangent))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_batch_of_calls_is_the_calls_one_by_one(function):
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 2, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: (function(x) ** 2).sum()))
    of_batch = jax.jit(jax.grad(lambda x: (jax.vmap(function)(x) ** 2).sum()))
    one_by_one = np.stack([gradient(x) for x in x])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x), one_by_one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_batch(x), one_by_one, rtol=1e-4, atol=1e-5)


def test_a_kernel_shared_by_a_batch_of_calls_gets_the_sum_of_their_gradients():
    x, kernel = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((2, 4, 3), (3, 5)))

    def loss(kernel):
        return (jax.vmap(linear, (0, None))(x, kernel) ** 2).sum()

    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(kernel), jax.grad(lambda k: ((x @ k) ** 2).sum())(kernel), rtol=1e-5
    )


def test_gradients_are_summed_over_the_devices_of_a_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    x, kernel = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((4, 3), (3, 5)))
    rows, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()

    def gradient(kernel, x, product):
        return jax.grad(lambda kernel: jax.lax.psum((product(x, kernel) ** 2).sum(), "data"))(kernel)

    def split(product):
        f = partial(gradient, product=product)
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(whole, rows), out_specs=whole))(kernel, x)

    np.testing.assert_allclose(split(linear), split(jnp.matmul), rtol=1e-5)


def test_an_empty_array_is_materialized():
    assert jax.jit(materialize)(jnp.zeros((0, 3))).shape == (0, 3)
