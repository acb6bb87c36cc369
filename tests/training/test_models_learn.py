"""Every kind of model trains: its loss on one batch is finite and falls, in float32 and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import acmix_jax
from acmix_jax.backbones import pvt, resnet, san, swin
from acmix_jax.models import parse_name


def cut(name):
    """Its backbone file, its variant's name there, and that variant with few blocks, and small windows in SAN."""
    backbone = {"resnet": resnet, "san": san, "pvt": pvt, "swin": swin}[parse_name(name).family]
    plain = parse_name(name).plain.removesuffix("_pairwise")
    variant = backbone.VARIANTS[plain]
    if backbone is san:  # whose 49 taps take long to compile
        variant = variant._replace(window_sizes=(3,) * len(variant.depths))
    first = 1 if backbone is san else 2  # the second block of Swin is shifted, that of ResNet has no projection
    return backbone, plain, variant._replace(depths=(first,) + (1,) * (len(variant.depths) - 1))


def kind(name):
    """Key of a model without its depth and drop path: the same for resnet26 and resnet50."""
    sizes = cut(name)[2]._asdict() | {"drop_path": None}
    return parse_name(name).is_acmix, name.endswith("_pairwise"), str(sizes)


KINDS = list({kind(name): name for name in reversed(acmix_jax.list_models())}.values())


def losses(model, params, state, steps=10):
    """The loss before each of so many steps of Adam on one batch of two images."""
    images, labels = jax.random.normal(jax.random.key(0), (2, 32, 32, 3)), jnp.arange(2)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, opt_state, key):
        def loss_of(params):
            logits, changed = model.apply(
                {"params": params, **state}, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

        (loss, state), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), state, opt_state, loss

    opt_state, values = jax.jit(optimizer.init)(params), []
    for key in jax.random.split(jax.random.key(2), steps):
        params, state, opt_state, loss = step(params, state, opt_state, key)
        values.append(float(loss))
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("san5")])  # as san10 and acmix_san5
def test_all_models_learn(name, monkeypatch):
    """With few blocks and small windows; models that differ in depth alone are then one; plain san5 is like san10."""
    backbone, plain, variant = cut(name)
    monkeypatch.setitem(backbone.VARIANTS, plain, variant)
    model = acmix_jax.create_model(name, num_classes=2)
    variables = jax.jit(model.init)(jax.random.key(1), jnp.zeros((2, 32, 32, 3)))
    params = variables.pop("params")
    for dtype in ("float32", "bfloat16"):
        model = acmix_jax.create_model(name, num_classes=2, dtype=dtype)
        found = losses(model, params, variables)
        assert np.isfinite(found).all(), found
        assert np.mean(found[-2:]) < 0.8 * found[0], found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["acmix_resnet14_stem1", "acmix_san5_stem1", "acmix_pvt_micro_patch2", "acmix_swin_micro_patch2"]
)
def test_remat_has_the_same_parameters_and_gradients(name):
    """In float64: gradients that are 0 but for rounding, as of a bias before BatchNorm, could not be compared else."""
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    gradients = []
    with jax.enable_x64(True):
        for remat in (False, True):
            model = acmix_jax.create_model(name, num_classes=10, dtype=jnp.float64, remat=remat)
            variables = jax.tree.map(jnp.float64, jax.jit(model.init)(jax.random.key(0), images))
            rngs = {"dropout": jax.random.key(1)}

            def loss(params, model=model, rest=variables, rngs=rngs):
                maps, _ = model.apply(
                    {**rest, "params": params}, images, train=True, rngs=rngs, mutable=["batch_stats"],
                    method="features",
                )  # fmt: skip
                return sum((x**2).sum() for x in maps.values())

            gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *gradients)
