import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax import create_model
from acmix_jax.ops.subsample import subsample
from tests.networks import shapes


def test_every_second_pixel():
    x = jnp.arange(2 * 5 * 4).reshape(2, 5, 4, 1)
    np.testing.assert_array_equal(subsample(x, 2), x[:, ::2, ::2])
    assert subsample(x, 1) is x


@pytest.mark.parametrize("name", ["resnet14_stem1", "acmix_resnet14_stem1"])
def test_no_product_of_a_train_step_reads_a_strided_slice(name):
    """XLA's GPU compiler would end the process (openxla/xla#47381); this is the test on machines that lack it."""
    model, variables = create_model(name, num_classes=10), shapes(name, 10)

    def loss(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0].sum()

    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    step = jax.jit(jax.grad(loss)).trace(variables["params"], variables["batch_stats"], images)
    readers = {}
    for function in step.lower(lowering_platforms=("cuda",)).as_text().split("func.func")[1:]:
        for value in re.findall(r"(%\w+) = stablehlo.slice [^\n]*\d+:\d+:2[,\]]", function):
            readers[value] = re.findall(rf"= (\S+) [^\n]*{value}\b", function)
    assert len(readers) == 3 * (2 if name.startswith("acmix_") else 1)  # three stages: shortcut, and q of Stage I
    assert all(operations == ["stablehlo.optimization_barrier"] for operations in readers.values())
