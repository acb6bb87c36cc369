"""Every mode of differentiation of a function with a backward pass written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from acmix_jax.ops.own_gradient import OwnGradient


def definition(x, y):
    return jnp.sin(x) * y**2


def forward(x, y):
    return jnp.sin(x) * y**2, jnp.cos(x)


def backward(x, y, out, cosine, gradient):
    return gradient * cosine * y**2, 2 * gradient * jnp.sin(x) * y


own = OwnGradient(definition, forward, backward, arity=2)
X, Y, DX, DY = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(4, 6)))


def loss(f):
    return lambda x, y: (f(x, y) ** 2).sum()


def gradient(f):
    return jax.grad(loss(f), argnums=(0, 1))


def hessian_vector(f):  # forward over reverse
    return lambda x, y: jax.jvp(gradient(f), (x, y), (DX, DY))[1]


WAYS = {
    "value": lambda f: f,
    "reverse": gradient,
    "reverse of one array": lambda f: jax.grad(loss(f), argnums=1),
    "forward": lambda f: lambda x, y: jax.jvp(f, (x, y), (DX, DY)),
    "forward along one array": lambda f: lambda x, y: jax.jvp(lambda y: f(x, y), (y,), (DY,)),
    "jacobian": lambda f: jax.jacfwd(f, argnums=(0, 1)),
    "forward over reverse": hessian_vector,
    "reverse over reverse": lambda f: jax.grad(lambda x, y: sum((g * DX).sum() for g in gradient(f)(x, y)), (0, 1)),
    "reverse over forward": lambda f: jax.grad(lambda x, y: jax.jvp(f, (x, y), (DX, DY))[1].sum(), (0, 1)),
    "third": lambda f: jax.grad(lambda x, y: sum((h * DY).sum() for h in hessian_vector(f)(x, y)), (0, 1)),
    "rematerialised": lambda f: gradient(jax.checkpoint(f)),
    "linearised": lambda f: lambda x, y: jax.linearize(f, x, y)[1](DX, DY),
    "in batches": lambda f: jax.vmap(gradient(lambda x, y: f(x[None], y[None]))),
    "batches of one array": lambda f: lambda x, y: jax.vmap(gradient(f), (0, None))(jnp.stack([x, y]), y),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_agrees_with_the_definition(way, jit):
    actual, expected = (jit(WAYS[way](f))(X, Y) for f in (own, definition))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


def test_reverse_mode_takes_the_pass_by_hand():
    def wrong(x, y, out, cosine, gradient):
        return gradient, 3 * gradient

    f = OwnGradient(definition, forward, wrong, arity=2)
    assert [np.asarray(g).tolist() for g in jax.grad(lambda x, y: f(x, y).sum(), (0, 1))(X, Y)] == [[1] * 6, [3] * 6]


def test_the_definition_is_in_no_program_of_a_gradient():
    def never(x, y):
        raise AssertionError

    f = OwnGradient(never, forward, backward, arity=2)
    jax.jit(gradient(f)).lower(X, Y)


def test_what_all_devices_share_gets_the_sum_of_their_gradients():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, shared = PartitionSpec("data"), PartitionSpec()

    def of_each(x, y):
        return jax.grad(lambda y: own(x, y[:3]).sum())(y)

    with jax.set_mesh(mesh):
        actual = jax.jit(jax.shard_map(of_each, in_specs=(split, shared), out_specs=shared))(X, Y)
    expected = jax.grad(lambda y: definition(X, jnp.concatenate([y[:3], y[:3]])).sum())(Y)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
