"""Softmax attention: the products that all kinds share, and the whole of it between two sets of tokens (Swin, PVT)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from acmix_jax.ops.xla_cpu import Multilinear, add_to_each


def softmax_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None, mask: jax.Array | None = None
) -> jax.Array:
    """`softmax(q k^T / sqrt(dim) + bias + mask) v` for each head.

    Args:
      q: `[..., L, heads, dim]`; k, v: `[..., S, heads, dim]`, any float type.
      bias: `[heads, L, S]`, or None.
      mask: broadcasts to `[..., heads, L, S]`, or None.

    Returns:
      `[..., L, heads, dim]` in the type of v. The softmax runs in float32 or wider.
    """
    # Heads first: else XLA on CPUs puts both products and the softmax into one slow loop (docs/notes/xla_cpu.md).
    q, k, v = (x.swapaxes(-3, -2) for x in (scale(q), k, v))
    logits = dot("...qd,...kd->...qk", q, k)
    if bias is not None:
        logits = add_to_each(logits.reshape(math.prod(logits.shape[:-3]), *bias.shape), bias).reshape(logits.shape)
    if mask is not None:
        logits += mask
    return attend(logits, v)[0].swapaxes(-3, -2)


def scale(q: jax.Array) -> jax.Array:
    """Queries `[..., dim]`, divided by `sqrt(dim)`."""
    return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)


def _einsum(a, b, subscripts):
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _gradient_of_a(gradient, b, subscripts):
    (of_a, of_b), of_result = subscripts.partition("->")[0].split(","), subscripts.partition("->")[2]
    return jnp.einsum(f"{of_result},{of_b}->{of_a}", gradient.astype(b.dtype), b)


def _gradient_of_b(gradient, a, subscripts):
    (of_a, of_b), of_result = subscripts.partition("->")[0].split(","), subscripts.partition("->")[2]
    return jnp.einsum(f"{of_result},{of_a}->{of_b}", gradient.astype(a.dtype), a)


_dot = Multilinear(_einsum, _gradient_of_a, _gradient_of_b)


def dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Einsum of two arrays of one float type, accumulated and returned in float32 or wider.

    The products of the gradient take the type of the operands. JAX's own would be float32 products, which bfloat16
    units cannot compute.
    """
    return _dot(a, b, subscripts=subscripts)


def attend(logits: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax of the logits `[..., L, S]`, times the values `[..., S, dim]`.

    Returns:
      `[..., L, dim]` in the type of the values, and the log-sum-exp of the logits, `[..., L, 1]` in their type.
    """
    largest = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    # The division comes after the product, where the array is smaller; the shift by the maximum cancels.
    weights = _exp(logits - largest, values.dtype)
    total = weights.sum(axis=-1, keepdims=True, dtype=logits.dtype)
    out = dot("...qk,...kd->...qd", weights, values)
    return (out / total).astype(values.dtype), largest + jnp.log(total)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _exp(x, dtype):
    """Exponential in another type. The gradient keeps the result in that type alone, as the product with v does."""
    return jnp.exp(x).astype(dtype)


@_exp.defjvp
def _exp_jvp(dtype, primals, tangents):
    out = _exp(*primals, dtype)
    return out, out * tangents[0].astype(dtype)
