import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.xla_cpu import add_to_each, dot_general, linear, materialize


@pytest.mark.parametrize("x", [2.0, np.nan, np.inf])
def test_materialize_changes_nothing(x):
    """Not even where the loop that never runs would, if it ran: from NaN on."""
    x = jnp.array([x, -1.0])
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (materialize(x) ** 2).sum()))(x)
    np.testing.assert_array_equal(value, (x**2).sum())
    np.testing.assert_array_equal(gradient, 2 * x)
    np.testing.assert_array_equal(jax.jit(materialize)(x), x)


def test_materialize_has_second_derivatives():
    second = jax.jit(jax.grad(lambda x: jax.grad(lambda x: (materialize(x) ** 3).sum())(x).sum()))
    np.testing.assert_allclose(second(jnp.array([1.0, 2.0])), [6, 12])


def test_materialize_is_seen_by_the_compiler():
    """The chain is computed once: what reads it twice, reads an array."""

    def run(between):
        def f(x):
            x = between(x + 1)
            return x[1:] * 2, x[:-1] * 3

        return jax.jit(f).lower(jnp.ones(100)).compile().as_text()

    assert " while(" in run(materialize)
    assert " while(" not in run(lambda x: x)


@pytest.mark.parametrize(
    ("wide", "narrow", "tolerance"), [("float64", "float64", 1e-12), ("float32", "bfloat16", 1e-2)]
)
def test_add_to_each_is_a_sum_in_value_and_gradient(wide, narrow, tolerance):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, shared = jnp.asarray(rng.normal(size=(5, 2, 3)), narrow), jnp.asarray(rng.normal(size=(2, 3)), wide)

        def both(f):
            return jax.jit(jax.value_and_grad(lambda *a: (f(*a).astype(wide) ** 2).sum(), argnums=(0, 1)))(x, shared)

        found, wanted = both(add_to_each), both(lambda x, shared: x + shared.astype(x.dtype))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, wanted)
        assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(wanted)]


@pytest.mark.parametrize(("features_in", "features"), [(3, 5), (5, 3)])
def test_linear_is_the_matrix_product_in_value_and_gradient(features_in, features):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, weights = (
            jnp.asarray(rng.normal(size=s)) for s in ((2, 4, 3, features_in), (features_in, features), (features,))
        )

        def both(f):
            return jax.jit(jax.value_and_grad(lambda *a: (weights * f(*a) ** 2).sum(), argnums=(0, 1)))(x, kernel)

        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), both(linear), both(jnp.matmul))


def test_linear_fits_into_dense():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    plain, ours = (nn.Dense(5, dot_general=f) for f in (None, dot_general))
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), rtol=1e-6)
