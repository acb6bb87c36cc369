import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.interpolate import bilinear, bilinear_onto, nearest


def by_pixel(x, size):
    """Bilinear between pixel centres, one pixel at a time; beyond the outermost centres the map goes on as it ends."""
    out = np.zeros((len(x), *size, x.shape[-1]))
    for place in np.ndindex(*size):
        centres = [(i + 0.5) * old / new - 0.5 for i, old, new in zip(place, x.shape[1:3], size, strict=True)]
        centres = [min(max(c, 0), old - 1) for c, old in zip(centres, x.shape[1:3], strict=True)]
        (y, v), (z, w) = ((int(c), c - int(c)) for c in centres)
        below, right = min(y + 1, x.shape[1] - 1), min(z + 1, x.shape[2] - 1)
        top = (1 - w) * x[:, y, z] + w * x[:, y, right]
        out[:, *place] = (1 - v) * top + v * ((1 - w) * x[:, below, z] + w * x[:, below, right])
    return out


SIZES = [(8, 12), (4, 9), (16, 3), (7, 4), (4, 3), (11, 24), (2, 2)]  # of 4x3: multiples, not, the same, smaller


@pytest.mark.parametrize("size", SIZES)
def test_bilinear(size):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5))
    with jax.enable_x64(True):
        out = bilinear(jnp.asarray(x), size)
        np.testing.assert_allclose(out, by_pixel(x, size), rtol=0, atol=1e-12)
        weights = np.random.default_rng(1).standard_normal(out.shape)
        forms = (lambda x: bilinear(x, size), lambda x: jax.image.resize(x, out.shape, "bilinear", antialias=False))
        ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(jnp.asarray(x)) for f in forms)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_known_at_run_time(size):
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    out = jax.jit(bilinear_onto, static_argnums=2)(jnp.asarray(x), jnp.array(size), (16, 24))
    assert out.shape == (16, 24, 5)
    np.testing.assert_allclose(out[: size[0], : size[1]], by_pixel(x[None], size)[0], atol=2e-6)


def test_a_map_of_one_pixel_is_repeated():
    np.testing.assert_array_equal(bilinear(jnp.full((1, 1, 1, 2), 3.0), (5, 4)), np.full((1, 5, 4, 2), 3.0))


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((6, 2), [0, 0, 1, 1, 2, 2], [0, 1]), ((5, 4), [0, 0, 1, 1, 2], [0, 0, 1, 1]), ((2, 2), [0, 1], [0, 1])],
)
def test_nearest_rounds_down(size, rows, columns):
    x = jnp.arange(6.0).reshape(1, 3, 2, 1)
    np.testing.assert_array_equal(nearest(x, size), x[:, np.array(rows)][:, :, np.array(columns)])


@pytest.mark.parametrize("size", [(8, 6), (5, 7)])
@pytest.mark.parametrize("resize", [bilinear, nearest])
def test_the_type_stays(resize, size):
    x = jnp.ones((1, 4, 3, 2), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        assert resize(x, size).dtype == x.dtype
