import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.attention import softmax_attention
from acmix_jax.ops.neighborhood import neighborhood_attention


def products(jaxpr):
    """Types of the operands of each product, those of inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(operand.aval.dtype) for operand in equation.invars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("attention", [softmax_attention, lambda *qkv: neighborhood_attention(*qkv, form="tiled")])
def test_all_products_of_the_gradient_are_of_the_narrow_type(attention):
    rng = np.random.default_rng(0)
    qkv = [jnp.asarray(rng.normal(size=(2, 8, 8, 2, 4)), jnp.bfloat16) for _ in range(3)]

    def gradient_of(attention):
        return jax.jit(jax.grad(lambda *qkv: attention(*qkv).astype(jnp.float32).sum(), argnums=(0, 1, 2)))

    gradient = gradient_of(attention)
    assert list(products(jax.make_jaxpr(gradient)(*qkv).jaxpr)) == 6 * [("bfloat16", "bfloat16")]
    in_groups = gradient_of(jax.vmap(attention))  # as with batch_norm_groups
    groups = jax.make_jaxpr(in_groups)(*(x[:, None] for x in qkv))
    assert list(products(groups.jaxpr)) == 6 * [("bfloat16", "bfloat16")]
    wide = gradient(*(x.astype(jnp.float32) for x in qkv))
    for actual, expected in zip(gradient(*qkv), wide, strict=True):
        np.testing.assert_allclose(actual.astype(np.float32), expected, atol=0.03)


def test_it_is_the_softmax():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, n, 2, 4)) for n in (5, 7, 7))
    bias, mask = rng.normal(size=(2, 5, 7)), rng.normal(size=(3, 1, 5, 7))
    logits = np.einsum("bqnd,bknd->bnqk", q, k) / 2 + bias + mask
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    with jax.enable_x64(True):
        out = softmax_attention(q, k, v, jnp.asarray(bias), mask)
    np.testing.assert_allclose(out, np.einsum("bnqk,bknd->bqnd", weights, v), rtol=1e-12)
