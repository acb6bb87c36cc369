"""Softmax attention between two sets of tokens: the product that windows (Swin) and whole maps (PVT) share."""

import jax
import jax.numpy as jnp

from acmix_jax.ops.materialize import add_to_each


def softmax_attention(q, k, v, bias=None, mask=None):
    """`softmax(q k^T / sqrt(dim) + bias + mask) v` for each head.

    Args:
      q: `[..., L, heads, dim]`; k, v: `[..., S, heads, dim]`, any float type.
      bias: `[heads, L, S]`, or None.
      mask: broadcasts to `[..., heads, L, S]`, or None.

    Returns:
      `[..., L, heads, dim]` in the type of v. The softmax runs in float32 or wider.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("...qnd,...knd->...nqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = add_to_each(logits.reshape(-1, *bias.shape), bias).reshape(logits.shape)
    if mask is not None:
        logits += mask
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("...nqk,...knd->...qnd", weights, v)
