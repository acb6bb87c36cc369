from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_jax.errors import UserError
from acmix_jax.ops.neighborhood import FORMS, neighborhood_attention, position_map


def by_hand(q, k, v, position, window_size, stride, dilation):
    """Attention of one image and head in plain loops, over a map that NumPy reflects."""
    height, width, dim = q.shape
    margin = dilation * (window_size // 2)
    k, v, position = (np.pad(x, ((margin, margin), (margin, margin), (0, 0)), mode="reflect") for x in (k, v, position))
    out = np.zeros((-(-height // stride), -(-width // stride), v.shape[-1]))
    for i, j in np.ndindex(out.shape[:2]):
        y, x = stride * i, stride * j  # of the query, and of the first tap in the padded maps
        taps = [(y + dilation * s, x + dilation * t) for s in range(window_size) for t in range(window_size)]
        of_query = position[y + margin, x + margin]
        logits = np.array([q[y, x] @ (k[p] + of_query - position[p]) for p in taps]) / dim**0.5
        weights = np.exp(logits - logits.max())
        out[i, j] = sum(w * v[p] for w, p in zip(weights / weights.sum(), taps, strict=True))
    return out


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("height", "width", "window_size", "stride", "dilation"),
    [(6, 5, 3, 1, 1), (9, 7, 5, 2, 1), (11, 4, 3, 1, 2), (2, 3, 7, 1, 1), (1, 1, 7, 2, 3), (5, 17, 1, 3, 1)],
)
def test_equals_plain_loops(form, height, width, window_size, stride, dilation):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        q, k, v = (draw(rng, 1, height, width, 1, 4) for _ in range(3))
        position = draw(rng, height, width, 4)
        window = {"window_size": window_size, "stride": stride, "dilation": dilation}
        out = jax.jit(partial(neighborhood_attention, form=form, **window))(q[:, ::stride, ::stride], k, v, position)
        expected = by_hand(*(np.asarray(x[0, :, :, 0]) for x in (q, k, v)), np.asarray(position), **window)
        np.testing.assert_allclose(out[0, :, :, 0], expected, rtol=0, atol=1e-12)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 19), width=st.integers(1, 19), heads=st.integers(1, 3),
    window_size=st.sampled_from([1, 3, 7]), stride=st.integers(1, 3), dilation=st.integers(1, 3),
)  # fmt: skip
def test_forms_agree_in_value_and_gradient(height, width, heads, window_size, stride, dilation):
    with jax.enable_x64(True):
        rng = np.random.default_rng(height * 100 + width)
        arguments = [draw(rng, 2, height, width, heads, 3) for _ in range(3)] + [draw(rng, height, width, 3)]
        weights = draw(rng, 2, -(-height // stride), -(-width // stride), heads, 3)

        def loss(form, *arguments):
            q, *others = arguments
            out = neighborhood_attention(
                q[:, ::stride, ::stride], *others, form=form, window_size=window_size, stride=stride, dilation=dilation
            )
            return (weights * out**2).sum()

        @jax.jit  # one program for all forms
        def by_form(*arguments):
            return {f: jax.value_and_grad(partial(loss, f), argnums=(0, 1, 2, 3))(*arguments) for f in FORMS}

        results = by_form(*arguments)
        expected = results.pop("reference")
        for actual in results.values():
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), actual, expected)


def test_bfloat16_stays_near_float32():
    rng = np.random.default_rng(0)
    arguments = [draw(rng, 2, 9, 9, 2, 8).astype(jnp.float32) for _ in range(3)]
    weights = draw(rng, 2, 9, 9, 2, 8).astype(jnp.float32)

    def out_and_gradients(form, arguments):
        def loss(*arguments):
            out = neighborhood_attention(*arguments, form=form)
            return (weights * out).sum(), out

        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return out, gradients

    @jax.jit
    def by_form(arguments):
        narrow = [x.astype(jnp.bfloat16) for x in arguments]
        return out_and_gradients("reference", arguments), {f: out_and_gradients(f, narrow) for f in FORMS}

    expected, results = by_form(arguments)
    assert {x.dtype for x in jax.tree.leaves(results)} == {jnp.dtype("bfloat16")}
    for actual in results.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05), actual, expected)


def test_the_form_depends_on_the_number_of_queries():
    """Not on that of the keys: with a stride there are fewer queries."""
    keys = jnp.zeros((1, 28, 28, 1, 1))
    for stride, loops in ((1, True), (2, False)):
        queries = keys[:, ::stride, ::stride]
        program = jax.make_jaxpr(lambda q, stride=stride: neighborhood_attention(q, keys, keys, stride=stride))(queries)
        assert ("scan" in str(program)) == loops


def test_position_map_runs_from_minus_one_to_one():
    coordinates = position_map(3, 2)
    np.testing.assert_array_equal(coordinates[:, :, 0], [[-1, 1]] * 3)  # x
    np.testing.assert_array_equal(coordinates[:, :, 1], [[-1, -1], [0, 0], [1, 1]])  # y
    np.testing.assert_array_equal(position_map(1, 1), [[[-1, -1]]])


def test_position_map_keeps_the_distances_of_another_size():
    np.testing.assert_array_equal(position_map(56, 56, size=56), position_map(56, 56))
    larger = position_map(200, 91, size=56)
    np.testing.assert_allclose(np.diff(larger[0, :, 0]), 2 / 55, atol=1e-6)
    np.testing.assert_allclose(np.diff(larger[:, 0, 1]), 2 / 55, atol=1e-6)
    np.testing.assert_allclose(larger.mean(axis=(0, 1)), 0, atol=1e-6)
    assert np.isfinite(position_map(1, 1, size=1)).all()


@pytest.mark.parametrize("change", [{"window_size": 4}, {"form": "tilde"}])
def test_wrong_arguments_are_named(change):
    x = jnp.zeros((1, 4, 4, 1, 2))
    with pytest.raises(UserError, match="window_size=4|did you mean tiled"):
        neighborhood_attention(x, x, x, **change)
