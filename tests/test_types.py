"""Types that do not depend on JAX's global switches, so that a run may be continued under other ones."""

import jax
import jax.numpy as jnp
import pytest

from acmix_jax import create_model
from acmix_jax.training.setup import set_up
from configs import digits
from tests.networks import draw, shapes

NETWORKS = (
    "acmix_resnet14_stem1", "acmix_swin_micro_patch2", "acmix_pvt_micro_patch2", "acmix_san5_stem1",
    "acmix_san5_stem1_pairwise",
)  # fmt: skip
IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_float32_with_64_bits(name):
    with jax.enable_x64(True):
        variables = jax.eval_shape(create_model(name, 10).init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_promote_no_types_implicitly(name):
    """In float32; Flax's own BatchNorm does so in bfloat16."""
    variables = draw(shapes(name, 10))

    def apply(images):
        options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        return create_model(name, 10).apply(variables, images, **options)[0]

    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(apply, IMAGES).dtype == jnp.float32


@pytest.mark.parametrize("switch", [jax.enable_x64(True), jax.numpy_dtype_promotion("strict")], ids=["x64", "strict"])
def test_a_train_step_keeps_the_types_of_its_state(switch):
    config = digits.get_config()
    config.update({"ema": 0.9, "mixup": 0.2, "cutmix": 0.2, "random_erasing": 0.2})
    run = set_up(config)
    before = jax.tree.map(lambda x: x.dtype, jax.eval_shape(run.init, jax.random.key(0)))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype), run.example)
    with switch, jax.set_mesh(run.mesh):
        run = set_up(config)
        state = jax.eval_shape(run.init, jax.random.key(0))
        after, _ = jax.eval_shape(run.step, state, batch)
    assert [jax.tree.map(lambda x: x.dtype, tree) for tree in (state, after)] == [before] * 2
