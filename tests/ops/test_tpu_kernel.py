from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.neighborhood import tpu_kernel, tpu_plan
from acmix_jax.ops.neighborhood.reference import reference_attention

TOLERANCE = {"float32": 1e-5, "bfloat16": 1.5e-2}  # of the largest value


def check(batch, height, width, heads, dim, dtype, *window):
    """The kernels' result and gradients, interpreted, against those of the definition in float32."""
    rng = np.random.default_rng(0)
    stride = window[1]
    queries = batch, -(-height // stride), -(-width // stride), heads, dim
    shapes = queries, *2 * [(batch, height, width, heads, dim)], queries
    *arguments, dout = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    assert tpu_kernel.unsupported(*arguments[:2], *window) is None

    @jax.jit
    def kernels(q, k, v, dout):
        out, log_sum = tpu_kernel.forward(q, k, v, *window, interpret=True)
        return out, *tpu_kernel.backward(q, k, v, out, log_sum, dout, *window, interpret=True)

    @jax.jit
    def definition(q, k, v, dout):
        out, gradient = jax.vjp(lambda q, k, v: reference_attention(q, k, v, None, *window), q, k, v)
        return out, *gradient(dout)

    results = kernels(*arguments, dout)
    expected = definition(*(x.astype(jnp.float32) for x in (*arguments, dout)))
    for actual, x, of in zip(results, expected, ("out", "dq", "dk", "dv"), strict=True):
        assert actual.dtype == dtype
        limit = TOLERANCE[dtype] * max(np.abs(x).max(), 0.1)  # in a 1 x 1 map the gradients of q and k are zero
        np.testing.assert_allclose(actual.astype(jnp.float32), x, rtol=0, atol=limit, err_msg=of)


@pytest.mark.parametrize(
    ("batch", "height", "width", "heads", "dim", "dtype", "window"),
    [
        (1, 9, 10, 2, 8, "float32", (3, 1, 1)),
        (1, 7, 11, 2, 8, "float32", (3, 2, 1)),
        (2, 5, 9, 1, 16, "bfloat16", (3, 1, 1)),
        (1, 3, 2, 2, 4, "float32", (7, 1, 1)),
    ],
)
def test_equals_the_definition(batch, height, width, heads, dim, dtype, window):
    check(batch, height, width, heads, dim, dtype, *window)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "height", "width", "heads", "dim", "dtype", "window"),
    [
        (1, 16, 24, 4, 16, "float32", (7, 1, 1)),  # the layers of ResNet-50, on smaller maps
        (3, 16, 12, 4, 32, "bfloat16", (7, 2, 1)),
        (2, 14, 14, 4, 64, "bfloat16", (7, 1, 1)),
        (1, 14, 14, 4, 128, "float32", (7, 2, 1)),
        (9, 7, 7, 2, 128, "bfloat16", (7, 1, 1)),
        (1, 12, 10, 2, 8, "float32", (3, 1, 2)),
        (1, 11, 13, 2, 8, "float32", (5, 2, 3)),
        (1, 1, 1, 2, 8, "float32", (7, 1, 1)),
        (1, 2, 9, 3, 8, "float32", (5, 1, 1)),
        (1, 9, 4, 1, 8, "float32", (3, 3, 1)),
        (1, 9, 8, 1, 8, "float32", (1, 1, 1)),
    ],
)
def test_equals_the_definition_for_many_shapes(batch, height, width, heads, dim, dtype, window):
    check(batch, height, width, heads, dim, dtype, *window)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "height", "width", "heads", "window"),
    [
        (1, 25, 9, 4, (3, 1, 1)),
        (1, 30, 9, 2, (5, 2, 1)),
        (3, 13, 9, 8, (3, 1, 3)),
        (9, 50, 7, 2, (7, 1, 1)),
    ],
)
def test_strips_of_a_large_map_add_up(monkeypatch, batch, height, width, heads, window):
    """As if vector memory held no more than a row of tiles; some strips finish their keys two or four strips late."""
    monkeypatch.setattr(tpu_plan, "VECTOR_MEMORY", 0)
    tpu_plan.plan_tiles.cache_clear()
    check(batch, height, width, heads, 8, "float32", *window)
    tpu_plan.plan_tiles.cache_clear()


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 8, 8, 3, 48), "float32", "3 heads of 48 channels"),
        ((1, 8, 8, 2, 8), "float16", "not float16"),
        ((1, 8, 8, 64, 2), "float32", "64 heads, more than 32"),
        ((1, 8, 4096, 1, 128), "float32", "a row of tiles of 4096 columns needs"),
    ],
)
def test_says_what_it_cannot_do(shape, dtype, reason):
    x = jax.ShapeDtypeStruct(shape, dtype)
    assert reason in tpu_kernel.unsupported(x, x, 7, 1, 1)


def test_refuses_chips_of_little_vector_memory(monkeypatch):
    chip = SimpleNamespace(device_kind="TPU v4")
    monkeypatch.setattr(jax, "local_devices", lambda: [chip])
    x = jax.ShapeDtypeStruct((1, 8, 8, 2, 8), "float32")
    assert tpu_kernel.unsupported(x, x, 7, 1, 1) == "TPU v4 has less vector memory than the kernels need"
