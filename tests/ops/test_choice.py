import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.ops.choice import attention_form, by_backend, convolution_form, run_attention_form


@pytest.mark.parametrize(
    ("size", "backend", "form"),
    [
        ((14, 14), "cpu", "tiled"),
        ((28, 28), "cpu", "recomputed"),
        ((4, 200), "cpu", "recomputed"),
        ((28, 28), "tpu", "tiled"),
        ((28, 28), "gpu", "tiled"),
    ],
)
def test_weights_of_large_maps_are_recomputed_on_cpus_only(size, backend, form):
    assert attention_form(*size, backend) == form


@pytest.mark.parametrize(
    ("in_features", "stride", "backend", "form"),
    [
        (64, 1, "cpu", "dense"),
        (256, 1, "cpu", "multiply_shift"),
        (256, 2, "cpu", "dense"),
        (2048, 1, "tpu", "dense"),
        (2048, 1, "gpu", "dense"),
    ],
)
def test_wide_convolutions_are_composed_off_the_cpu_only(in_features, stride, backend, form):
    assert convolution_form(in_features, stride, backend) == form


@pytest.mark.parametrize(
    ("backend", "itemsize", "groups", "form"),
    [("gpu", 2, 1, "kernel"), ("gpu", 4, 1, None), ("gpu", 2, 8, None), ("tpu", 2, 1, None), ("cpu", 2, 1, None)],
)
def test_runs_take_the_kernel_where_it_was_measured(backend, itemsize, groups, form):
    assert run_attention_form(backend, itemsize, groups) == form


def test_unknown_backend_gets_the_forms_of_accelerators():
    assert convolution_form(2048, 1, "neuron") == "dense"


@pytest.mark.parametrize(("platform", "factor"), [("cpu", 2), ("cuda", 3), ("rocm", 3), ("tpu", 5), ("neuron", 5)])
def test_a_program_gets_the_choice_of_the_platform_that_it_is_lowered_for(platform, factor):
    def f(x):
        return by_backend({"cpu": 2.0, "gpu": 3.0, "tpu": 5.0}.get, lambda factor, x: factor * x, x)

    program = jax.jit(f).trace(jnp.ones(3)).lower(lowering_platforms=(platform,)).as_text()
    assert f"dense<{factor}.000000e+00>" in program
    assert sum(f"dense<{other}.000000e+00>" in program for other in (2, 3, 5)) == 1


def test_one_choice_for_all_backends_leaves_no_condition():
    def f(x):
        return by_backend(lambda backend: 2.0, lambda factor, x: factor * x, x)

    assert "cond" not in str(jax.make_jaxpr(f)(jnp.ones(3)))
    np.testing.assert_array_equal(f(jnp.ones(3)), 2 * np.ones(3))
