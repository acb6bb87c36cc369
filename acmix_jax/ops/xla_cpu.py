"""Workarounds for slow patterns of XLA's CPU backend.

On other backends each function is its plain expression, which JAX differentiates in every mode. On CPUs the gradients
are written by hand (`jax.custom_vjp`), which rules out forward mode (`jax.jvp`). The backend is the default of the
process at the time of tracing.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def _on_cpu():
    return jax.default_backend() == "cpu"


def cpu_gradient(backward: Callable, nondiff_argnums: tuple[int, ...] = ()) -> Callable:
    """Decorator that replaces JAX's gradient of a function by `backward` on CPUs.

    Args:
      backward: called with the arguments at `nondiff_argnums`, the tuple of all other arguments, and the gradient of
        the result; returns the gradients of the other arguments.
      nondiff_argnums: positions of the arguments that are not arrays.
    """

    def decorate(function):
        with_gradient = jax.custom_vjp(function, nondiff_argnums=nondiff_argnums)

        def forward(*arguments):  # differentiable by itself, for second derivatives
            return with_gradient(*arguments), tuple(x for i, x in enumerate(arguments) if i not in nondiff_argnums)

        with_gradient.defvjp(forward, backward)

        @functools.wraps(function)
        def by_backend(*arguments):
            return with_gradient(*arguments) if _on_cpu() else function(*arguments)

        return by_backend

    return decorate


@cpu_gradient(lambda _, gradient: (materialize(gradient),))
def materialize(x: jax.Array) -> jax.Array:
    """Returns x `[...]`; on CPUs it and its gradient are written to memory once.

    On CPUs, XLA recomputes a chain of element-wise operations in each loop that reads its result. In a residual network
    the chain is the sum of all blocks so far, and in the backward pass of all blocks after. XLA removes barriers
    (`lax.optimization_barrier`) before it fuses loops. It cannot look through a loop, even one that never runs.
    """
    if not _on_cpu():
        return x
    first = (0,) * x.ndim
    return lax.while_loop(
        lambda carry: jnp.isnan(carry[1][first]) & (carry[0] < 0),
        lambda carry: (carry[0] + 1, 2 * carry[1]),
        (jnp.int32(0), x),
    )[1]


def _add_to_each_backward(arguments, gradient):
    _, shared = arguments
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    gradients = gradient.reshape(gradient.shape[0], -1)
    total = jnp.einsum("n,nx->x", ones, gradients, precision="highest", preferred_element_type=wide)
    return gradient, total.reshape(shared.shape).astype(shared.dtype)


@cpu_gradient(_add_to_each_backward)
def add_to_each(x: jax.Array, shared: jax.Array) -> jax.Array:
    """Adds `shared` `[...]` to each entry of x `[N, ...]`, in the type of x.

    The gradient of `shared` is a sum over the first axis. As a product with ones, it takes a fraction of the time of
    XLA's sum (docs/notes/xla_cpu.md).
    """
    return x + shared.astype(x.dtype)


def _linear_backward(arguments, gradient):
    x, kernel = arguments
    pixels, outputs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if x.shape[-1] <= gradient.shape[-1]:
        dkernel = jnp.einsum("pc,pd->cd", pixels, outputs)
    else:
        dkernel = jnp.einsum("pd,pc->dc", outputs, pixels).T
    return gradient @ kernel.T, dkernel


@cpu_gradient(_linear_backward)
def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` for `[..., C_in]` and `[C_in, C_out]`.

    The gradient of the kernel is a sum over pixels, for which XLA transposes the left operand of its matrix product.
    JAX puts the gradient of the output there; here it is the narrower of the two (docs/notes/xla_cpu.md).
    """
    return x @ kernel


def dot_general(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`linear`, as the argument `dot_general` of `nn.Dense`."""
    return linear(x, kernel)


def _matmul_backward(arguments, gradient):
    kernel, pixels = arguments
    return jnp.einsum("dmp,dkp->dmk", gradient, pixels), jnp.einsum("dmk,dmp->dkp", kernel, gradient)


@cpu_gradient(_matmul_backward)
def batched_matmul(kernel: jax.Array, pixels: jax.Array) -> jax.Array:
    """`[dim, m, k] @ [dim, k, pixels]`; the gradient never transposes the large operand, as JAX's own would."""
    return kernel @ pixels
