import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.linear import dot_general, linear


@pytest.mark.parametrize(("features_in", "features"), [(3, 5), (5, 3)])
def test_it_is_the_matrix_product_in_value_and_gradient(features_in, features):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, weights = (
            jnp.asarray(rng.normal(size=s)) for s in ((2, 4, 3, features_in), (features_in, features), (features,))
        )

        def both(f):
            return jax.jit(jax.value_and_grad(lambda *a: (weights * f(*a) ** 2).sum(), argnums=(0, 1)))(x, kernel)

        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), both(linear), both(jnp.matmul))


def test_it_fits_into_dense():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    plain, ours = (nn.Dense(5, dot_general=f) for f in (None, dot_general))
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), rtol=1e-6)
