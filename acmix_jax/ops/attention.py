"""Softmax attention: the products that all kinds share, and the whole of it between two sets of tokens (Swin, PVT)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from acmix_jax.ops.xla_cpu import add_to_each, cpu_gradient


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
        logits = add_to_each(logits.reshape(-1, *bias.shape), bias).reshape(logits.shape)
    if mask is not None:
        logits += mask
    return attend(logits, v)[0].swapaxes(-3, -2)


def scale(q: jax.Array) -> jax.Array:
    """Queries `[..., dim]`, divided by `sqrt(dim)`."""
    return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Einsum of two arrays of one float type, accumulated and returned in float32 or wider.

    The products of the gradient take the type of the operands. JAX's own would be float32 products, which bfloat16
    units cannot compute.
    """
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


@_dot.defjvp
def _dot_jvp(subscripts, primals, tangents):
    (a, b), (da, db) = primals, tangents
    out = _dot(subscripts, a, b)
    # Products of the operands' own type. The gradient transposes them, so its products are of that type, too.
    return out, (jnp.einsum(subscripts, da, b) + jnp.einsum(subscripts, a, db)).astype(out.dtype)


def _dot_backward(subscripts, operands, gradient):
    (a, b), gradient = operands, gradient.astype(operands[0].dtype)
    (of_a, of_b), of_result = subscripts.partition("->")[0].split(","), subscripts.partition("->")[2]
    return (
        jnp.einsum(f"{of_result},{of_b}->{of_a}", gradient, b),
        jnp.einsum(f"{of_result},{of_a}->{of_b}", gradient, a),
    )


dot = cpu_gradient(_dot_backward, nondiff_argnums=(0,))(_dot)  # the same products, with operands in another order


def attend(logits: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax of the logits `[..., L, S]`, times the values `[..., S, dim]`.

    Returns:
      `[..., L, dim]` in the type of the values, and the log-sum-exp of the logits, `[..., L, 1]` in their type.
    """
    largest = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    # The division comes after the product, where the array is smaller; the shift by the maximum cancels.
    weights = jnp.exp(logits - largest).astype(values.dtype)
    total = weights.sum(axis=-1, keepdims=True, dtype=logits.dtype)
    out = dot("...qk,...kd->...qd", weights, values)
    return (out / total).astype(values.dtype), largest + jnp.log(total)
