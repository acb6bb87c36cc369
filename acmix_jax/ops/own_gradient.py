"""Functions with a backward pass written by hand, which JAX can still differentiate in every mode, any number of times.

`jax.custom_vjp` closes the way for forward mode, and so for Hessian-vector products. Here reverse mode takes the
backward pass by hand; tangents, and with them all higher derivatives, are those of a plain definition. Both are linear
maps, one the transpose of the other, so they are primitives that transpose into each other.
"""

from collections.abc import Callable
from functools import cached_property, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays as arguments of a primitive: in a `jax.shard_map`, all vary over the devices if one does.

    The gradient of what is the same on all devices is then summed over them.
    """
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    missing = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [lax.pcast(x, names, to="varying") if names else x for x, names in zip(arrays, missing, strict=True)]


class OwnGradient:
    """A function of arrays to one array, all of floats, with a backward pass of its own.

    Two calls are the same program only if they use the same object: make one for each set of static arguments.
    """

    def __init__(self, definition: Callable, forward: Callable, backward: Callable, arity: int):
        """Defines the function.

        Args:
          definition: (*arrays) -> out, in operations that JAX can differentiate.
          forward: (*arrays) -> (out, *residuals), the same in the form to run.
          backward: (*arrays, out, *residuals, gradient of out) -> gradients of the arrays.
          arity: number of the arrays.
        """
        self.definition, self.forward, self.backward, self.arity = definition, forward, backward, arity

    def __call__(self, *arrays: jax.Array) -> jax.Array:
        return _bind(_value, self, *vary_alike(*arrays))[0]

    def tangent(self, *arguments: jax.Array) -> tuple[jax.Array]:
        """The tangent of out, from (*arrays, out, *residuals, *tangents of the arrays)."""
        arrays, tangents = arguments[: self.arity], arguments[-self.arity :]
        return (jax.jvp(self.definition, arrays, tangents)[1],)

    def defined_gradient(self, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        """Gradients of the arrays by the definition, as `backward` returns them, from (*arrays, gradient of out)."""
        *arrays, gradient = arguments
        return jax.vjp(self.definition, *arrays)[1](gradient)

    @cached_property
    def on_batches(self) -> "OwnGradient":
        """The function with a batch axis in front of every array."""
        return OwnGradient(*map(jax.vmap, (self.definition, self.forward, self.backward)), self.arity)


_value = Primitive("own_gradient")  # (*arrays) to (out, *residuals)
_tangent = Primitive("own_gradient_tangent")  # (*arrays, out, *residuals, *tangents) to (tangent of out,)
_gradient = Primitive("own_gradient_backward")  # (*arrays, out, *residuals, gradient of out) to gradients
_FUNCTIONS = {_value: "forward", _tangent: "tangent", _gradient: "backward"}


def _bind(primitive, operation, *arguments):
    if primitive is _tangent:  # often transposed before anything reads it
        return primitive.bind(*arguments, jaxpr=None, operation=operation)
    # Traced here, not when it is lowered, as only now the surrounding mesh and shard_map are known.
    jaxpr = jax.make_jaxpr(getattr(operation, _FUNCTIONS[primitive]))(*arguments)
    return primitive.bind(*arguments, jaxpr=jaxpr, operation=operation)


def _run(*arguments, jaxpr, operation):
    return operation.tangent(*arguments) if jaxpr is None else jaxpr_as_fun(jaxpr)(*arguments)


def _types(*arguments, jaxpr, operation):
    return [arguments[operation.arity]] if jaxpr is None else jaxpr.out_avals


def _dense(tangents, like):
    """Tangents or gradients with arrays for symbolic zeros."""
    return [jnp.zeros_like(x) if type(t) is ad.Zero else t for t, x in zip(tangents, like, strict=True)]


def _are_zero(tangents):
    return all(type(t) is ad.Zero for t in tangents)


def _value_jvp(arrays, tangents, *, jaxpr, operation):
    results = _value.bind(*arrays, jaxpr=jaxpr, operation=operation)
    tangent = _bind(_tangent, operation, *arrays, *results, *_dense(tangents, arrays))
    # Only the two primitives below read the residuals, and they depend on them no more than on the arrays.
    return results, [*tangent, *(ad.Zero(jax.typeof(x).to_tangent_aval()) for x in results[1:])]


def _tangent_jvp(primals, tangents, **static):
    operation, arity = static["operation"], static["operation"].arity
    results = _tangent.bind(*primals, **static)
    linear = _dense(tangents[-arity:], primals[-arity:])
    if _are_zero(tangents[:arity]):
        return results, _tangent.bind(*primals[:-arity], *linear, **static)
    arrays = primals[:arity] + primals[-arity:]
    return results, jax.jvp(operation.tangent, arrays, (*_dense(tangents[:arity], primals[:arity]), *linear))[1]


def _gradient_jvp(primals, tangents, **static):
    operation, arity = static["operation"], static["operation"].arity
    results = _gradient.bind(*primals, **static)
    (linear,) = _dense(tangents[-1:], primals[-1:])
    if _are_zero(tangents[:arity]):
        return results, _gradient.bind(*primals[:-1], linear, **static)
    arrays = (*primals[:arity], primals[-1])
    tangents = (*_dense(tangents[:arity], primals[:arity]), linear)
    return results, jax.jvp(operation.defined_gradient, arrays, tangents)[1]


def _tangent_transpose(gradients, *arguments, jaxpr, operation):
    known, linear = arguments[: -operation.arity], arguments[-operation.arity :]
    if _are_zero(gradients):
        results = [ad.Zero(x.aval) for x in linear if ad.is_undefined_primal(x)]
    else:
        results = _bind(_gradient, operation, *known, *gradients)
    return [None] * len(known) + [
        g if ad.is_undefined_primal(x) else None for g, x in zip(results, linear, strict=True)
    ]


def _gradient_transpose(tangents, *arguments, jaxpr, operation):
    *known, linear = arguments
    if _are_zero(tangents):
        return [None] * len(known) + [ad.Zero(linear.aval)]
    return [None] * len(known) + _bind(_tangent, operation, *known, *_dense(tangents, known[: operation.arity]))


def _batch(primitive, arguments, axes, *, jaxpr, operation):
    (size,) = {x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None}

    def in_front(x, axis):
        return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    results = _bind(primitive, operation.on_batches, *map(in_front, arguments, axes))
    return results, [0] * len(results)


for _primitive in _FUNCTIONS:
    _primitive.multiple_results = True
    _primitive.def_impl(_run)
    _primitive.def_abstract_eval(_types)
    mlir.register_lowering(_primitive, mlir.lower_fun(_run, multiple_results=True))
    batching.primitive_batchers[_primitive] = partial(_batch, _primitive)
ad.primitive_jvps |= {_value: _value_jvp, _tangent: _tangent_jvp, _gradient: _gradient_jvp}
ad.primitive_transposes |= {_tangent: _tangent_transpose, _gradient: _gradient_transpose}
