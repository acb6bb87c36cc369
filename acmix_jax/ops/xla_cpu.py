"""Workarounds for slow patterns of XLA's CPU backend."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def materialize(x):
    """Gives back x `[...]`; it and its gradient are written to memory once.

    On a CPU, XLA computes a chain of element-wise operations anew in each loop that reads its result. In a residual
    network the chain is the sum of all blocks so far, and in the backward pass of all blocks after. Barriers
    (`lax.optimization_barrier`) are gone before that happens; what XLA cannot look through is a loop, even one that
    never runs. Other backends get x itself.
    """
    return _unseen_through(x)


def _unseen_through(x):
    if jax.default_backend() != "cpu":
        return x
    first = (0,) * x.ndim
    return lax.while_loop(
        lambda carry: jnp.isnan(carry[1][first]) & (carry[0] < 0),
        lambda carry: (carry[0] + 1, 2 * carry[1]),
        (jnp.int32(0), x),
    )[1]


materialize.defvjp(lambda x: (materialize(x), None), lambda _, gradient: (materialize(gradient),))


@jax.custom_vjp
def add_to_each(x, shared):
    """Adds `shared` `[...]` to each x of `[N, ...]`, in the type of x.

    The gradient of `shared` sums over the first axis. As a product with ones, that takes a fraction of the time of
    XLA's sum (docs/performance.md).
    """
    return x + shared.astype(x.dtype)


def _add_to_each_backward(shared, gradient):
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    ones = jnp.ones(len(gradient), gradient.dtype)
    gradients = gradient.reshape(len(gradient), -1)
    total = jnp.einsum("n,nx->x", ones, gradients, precision="highest", preferred_element_type=wide)
    return gradient, total.reshape(shared.shape).astype(shared.dtype)


add_to_each.defvjp(lambda x, shared: (add_to_each(x, shared), shared), _add_to_each_backward)


@jax.custom_vjp
def linear(x, kernel):
    """`x @ kernel` for `[..., C_in]` and `[C_in, C_out]`.

    The gradient of the kernel sums over the pixels, for which XLA's matrix product on a CPU first transposes its left
    operand. JAX puts the gradient of the output there; here it is the narrower of the two (docs/performance.md).
    """
    return x @ kernel


def _linear_backward(residuals, gradient):
    x, kernel = residuals
    pixels, outputs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if x.shape[-1] <= gradient.shape[-1]:
        of_kernel = jnp.einsum("pc,pd->cd", pixels, outputs)
    else:
        of_kernel = jnp.einsum("pd,pc->dc", outputs, pixels).T
    return gradient @ kernel.T, of_kernel


linear.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _linear_backward)


def dot_general(x, kernel, *_, **__):
    """`linear` for the field of the same name of `nn.Dense`."""
    return linear(x, kernel)
