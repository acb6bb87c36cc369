"""Workarounds for slow patterns of XLA's CPU backend.

Each is an operation that is linear in each of its arrays (`Multilinear`), so that the products and sums of its gradient
can be chosen by hand, and forward mode and higher derivatives still work. What differs by backend differs in the
program that is lowered for it, whatever the default backend of the process; off the CPU that is the plain expression.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from acmix_jax.ops.own_gradient import vary_alike


class Multilinear:
    """An operation that is linear in each of its arrays, with transposes chosen by hand.

    A call takes the arrays, and parameters as keywords; the parameters are no arrays and hashable. Under `jax.vmap` it
    becomes an operation on batches, with the same transposes.
    """

    def __init__(self, expression: Callable, *transposes: Callable, cpu: Callable | None = None):
        """Defines the operation.

        Args:
          expression: (arrays, parameters) -> array.
          *transposes: one for each array: (gradient of the result, other arrays, parameters) -> its gradient.
          cpu: the same as `expression`, in the form to lower for CPUs; None for `expression`.
        """
        self.expression, self.transposes, self.cpu = expression, transposes, cpu or expression

    def __call__(self, *arrays: Any, **parameters: Any) -> Any:
        arrays = vary_alike(*arrays)
        jaxpr = jax.make_jaxpr(partial(self.expression, **parameters))(*arrays)
        return _multilinear.bind(*arrays, jaxpr=jaxpr, operation=self, parameters=tuple(parameters.items()))

    @cache  # noqa: B019  # operations live as long as the program
    def on_batches(self, axes: tuple[int | None, ...]) -> "Multilinear":
        """The operation on arrays of which some have a batch axis in front (0) and the others none (None)."""

        def over_batch(f, axes):
            return lambda *arrays, **parameters: jax.vmap(partial(f, **parameters), axes)(*arrays)

        def transpose(i):
            of_batch = over_batch(self.transposes[i], (0, *axes[:i], *axes[i + 1 :]))
            if axes[i] == 0:
                return of_batch
            return lambda *arrays, **parameters: of_batch(*arrays, **parameters).sum(axis=0)

        transposes = map(transpose, range(len(axes)))
        return Multilinear(over_batch(self.expression, axes), *transposes, cpu=over_batch(self.cpu, axes))


_multilinear = Primitive("multilinear")  # `jaxpr` is that of the expression, for the type, and for readers of programs


def _expression(*arrays, jaxpr, operation, parameters):
    return operation.expression(*arrays, **dict(parameters))


def _on_cpu(*arrays, jaxpr, operation, parameters):
    return operation.cpu(*arrays, **dict(parameters))


def _jvp(primals, tangents, **rest):
    terms = [
        _multilinear.bind(*primals[:i], tangent, *primals[i + 1 :], **rest)
        for i, tangent in enumerate(tangents)
        if type(tangent) is not ad.Zero
    ]
    return _multilinear.bind(*primals, **rest), sum(terms[1:], terms[0])


def _transpose(gradient, *arrays, jaxpr, operation, parameters):
    (linear,) = (i for i, array in enumerate(arrays) if ad.is_undefined_primal(array))
    others = arrays[:linear] + arrays[linear + 1 :]
    result: list[Any] = [None] * len(arrays)
    if type(gradient) is ad.Zero:
        result[linear] = ad.Zero(arrays[linear].aval)
    else:
        result[linear] = operation.transposes[linear](gradient, *others, **dict(parameters))
    return result


def _batch(arrays, axes, *, jaxpr, operation, parameters):
    arrays = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays, axes, strict=True)]
    on_batches = operation.on_batches(tuple(None if axis is None else 0 for axis in axes))
    return on_batches(*arrays, **dict(parameters)), 0


_multilinear.def_impl(_expression)
_multilinear.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals[0])
mlir.register_lowering(_multilinear, mlir.lower_fun(_expression, multiple_results=False))
mlir.register_lowering(_multilinear, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
ad.primitive_jvps[_multilinear] = _jvp
ad.primitive_transposes[_multilinear] = _transpose
batching.primitive_batchers[_multilinear] = _batch


def _through_a_loop(x):
    if 0 in x.shape:
        return x
    first = (0,) * x.ndim
    return lax.while_loop(
        lambda carry: jnp.isnan(carry[1][first]) & (carry[0] < 0),
        lambda carry: (carry[0] + 1, 2 * carry[1]),
        (jnp.int32(0), x),
    )[1]


_materialize = Multilinear(lambda x: x, lambda gradient: materialize(gradient), cpu=_through_a_loop)


def materialize(x: jax.Array) -> jax.Array:
    """Returns x `[...]`; on CPUs it and its gradient are written to memory once.

    On CPUs, XLA recomputes a chain of element-wise operations in each loop that reads its result. In a residual network
    the chain is the sum of all blocks so far, and in the backward pass of all blocks after. XLA removes barriers
    (`lax.optimization_barrier`) before it fuses loops. It cannot look through a loop, even one that never runs.
    """
    return _materialize(x)


def add_to_each(x: jax.Array, shared: jax.Array) -> jax.Array:
    """Adds `shared` `[...]` to each entry of x `[N, ...]`, in the type of x.

    The gradient of `shared` is a sum over the first axis. As a product with ones, it takes a fraction of the time of
    XLA's sum on CPUs (docs/notes/xla_cpu.md).
    """
    return x + _repeat(shared, count=x.shape[0], dtype=x.dtype, from_dtype=shared.dtype)


_repeat = Multilinear(
    lambda x, count, dtype, from_dtype: jnp.broadcast_to(x.astype(dtype), (count, *x.shape)),
    lambda gradient, count, dtype, from_dtype: _total(gradient, count=count, dtype=from_dtype, from_dtype=dtype),
)


def _sum(x, count, dtype, from_dtype):
    return x.sum(axis=0, dtype=jnp.promote_types(from_dtype, jnp.float32)).astype(dtype)


def _sum_as_product(x, count, dtype, from_dtype):
    wide = jnp.promote_types(from_dtype, jnp.float32)
    ones = jnp.ones(count, from_dtype)
    rows = x.reshape(count, math.prod(x.shape[1:]))
    total = jnp.einsum("n,nx->x", ones, rows, precision="highest", preferred_element_type=wide)
    return total.reshape(x.shape[1:]).astype(dtype)


_total = Multilinear(
    _sum,
    lambda gradient, count, dtype, from_dtype: _repeat(gradient, count=count, dtype=from_dtype, from_dtype=dtype),
    cpu=_sum_as_product,
)


linear = Multilinear(
    lambda x, kernel: x @ kernel,
    lambda gradient, kernel: gradient @ kernel.T,
    lambda gradient, x: _kernel_gradient(gradient, x),
)
"""`x @ kernel` for `[..., C_in]` and `[C_in, C_out]`.

The gradient of the kernel is a sum over pixels, for which XLA on CPUs transposes the left operand of its matrix
product. JAX puts the gradient of the output there; here it is the narrower of the two (docs/notes/xla_cpu.md).
"""


def _kernel_gradient(gradient, x):
    pixels, outputs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if x.shape[-1] <= gradient.shape[-1]:
        return jnp.einsum("pc,pd->cd", pixels, outputs)
    return jnp.einsum("pd,pc->dc", outputs, pixels).T


def dot_general(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`linear`, as the argument `dot_general` of `nn.Dense`."""
    return linear(x, kernel)


batched_matmul = Multilinear(
    lambda kernel, pixels: kernel @ pixels,
    lambda gradient, pixels: jnp.einsum("dmp,dkp->dmk", gradient, pixels),
    lambda gradient, kernel: jnp.einsum("dmk,dmp->dkp", kernel, gradient),
)
"""`[dim, m, k] @ [dim, k, pixels]`; the gradient never transposes the large operand, as JAX's own would."""
