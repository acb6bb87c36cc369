"""The kernels in interpret mode, which computes what they do with plain JAX, against the definition."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.neighborhood import gpu_kernel
from acmix_jax.ops.neighborhood.reference import reference_attention

TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2, "float16": 2e-3}  # of a result's norm

slow = partial(pytest.param, marks=pytest.mark.slow)


def draw(height, width, heads, dim, stride, dtype="float32", batch=2):
    """q, k, v and the gradient of the result."""
    rng = np.random.default_rng(height * 100 + width)
    of_queries = (batch, -(-height // stride), -(-width // stride), heads, dim)
    shapes = of_queries, (batch, height, width, heads, dim), (batch, height, width, heads, dim), of_queries
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def by_kernel(q, k, v, dout, *window, interpret=True):
    out, lse = gpu_kernel.forward(q, k, v, *window, interpret=interpret)
    return out, *gpu_kernel.backward(q, k, v, out, lse, dout, *window, interpret=interpret)


def by_definition(q, k, v, dout, *window):
    out, pull_back = jax.vjp(lambda q, k, v: reference_attention(q, k, v, None, *window), q, k, v)
    return out, *pull_back(dout)


@pytest.mark.parametrize(
    ("height", "width", "heads", "dim", "window", "dtype"),
    [
        (8, 8, 2, 16, (7, 1, 1), "float32"),
        (8, 8, 1, 16, (7, 2, 1), "float32"),
        (9, 5, 1, 64, (3, 1, 1), "float32"),
        (9, 9, 1, 32, (7, 1, 1), "bfloat16"),
        slow(16, 16, 2, 16, (7, 1, 1), "bfloat16"),
        slow(14, 14, 2, 64, (7, 1, 1), "float32"),
        slow(7, 7, 4, 128, (7, 1, 1), "float32"),
        slow(14, 14, 1, 128, (7, 2, 1), "bfloat16"),
        slow(14, 14, 2, 32, (7, 2, 1), "float32"),
        slow(15, 13, 1, 16, (7, 2, 1), "float32"),
        slow(12, 12, 1, 16, (5, 1, 2), "float32"),
        slow(11, 11, 1, 16, (3, 3, 2), "float32"),
        slow(9, 20, 1, 16, (3, 1, 1), "float16"),
        slow(2, 3, 1, 16, (7, 1, 1), "float32"),  # reflected several times
        slow(5, 4, 1, 16, (1, 3, 1), "float32"),  # keys that no query sees
    ],
)
def test_equals_the_definition_in_value_and_gradient(height, width, heads, dim, window, dtype):
    arrays = draw(height, width, heads, dim, window[1], dtype)
    actual = jax.jit(lambda *arrays: by_kernel(*arrays, *window))(*arrays)
    assert {x.dtype.name for x in actual} == {dtype}
    expected = jax.jit(lambda *arrays: by_definition(*arrays, *window))(*(x.astype(jnp.float32) for x in arrays))
    for a, b in zip(actual, expected, strict=True):
        error = np.linalg.norm((a.astype(jnp.float32) - b).ravel())
        size = np.linalg.norm(b.ravel())
        # A window of one key leaves the logits without a gradient: there the error is that of numbers of size 1.
        assert error <= TOLERANCE[dtype] * (size if size > 1e-3 * b.size**0.5 else b.size**0.5)


@pytest.mark.slow
def test_x64_mode_changes_no_type():
    arrays = draw(8, 8, 1, 16, 1)
    with jax.enable_x64(True):
        actual = jax.jit(lambda *arrays: by_kernel(*arrays, 7, 1, 1))(*arrays)
    assert {x.dtype.name for x in actual} == {"float32"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dim": 24}, "24 channels a head, not 16, 32, 64, 128"),
        ({"dtype": "int32"}, "queries in int32"),
    ],
)
def test_says_what_it_cannot_compute(change, reason):
    q, k, *_ = draw(**{"height": 4, "width": 4, "heads": 1, "dim": 16, "stride": 1} | change)
    assert reason in gpu_kernel.unsupported(q, k, 7, 1, 1)


@pytest.mark.parametrize(("capability", "reason"), [("7.5", "7.5, below 8"), ("10.0", None), ("gfx942", None)])
def test_older_gpus_are_refused(capability, reason, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    q, k, *_ = draw(4, 4, 1, 16, 1)
    assert (gpu_kernel.unsupported(q, k, 7, 1, 1) or "None").endswith(str(reason))


def test_a_map_of_any_size_has_few_tables():
    """Tiles away from the border share one, so that large maps put no large constant into the program."""
    patches = gpu_kernel.cut_patches((200, 336), (7, 1, 1), (4, 4), 128, False)
    assert patches.tiles.shape == (50 * 84, 3)
    assert patches.tables.shape == (9, 16, 128)
