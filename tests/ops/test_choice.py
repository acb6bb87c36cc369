import jax
import pytest

from acmix_jax.ops.choice import attention_form, convolution_form


@pytest.mark.parametrize(
    ("size", "backend", "form"),
    [
        ((14, 14), "cpu", "tiled"),
        ((28, 28), "cpu", "recomputed"),
        ((4, 200), "cpu", "recomputed"),
        ((14, 14), "tpu", "tiled"),
        ((28, 28), "gpu", "recomputed"),
    ],
)
def test_weights_of_large_maps_are_recomputed(size, backend, form):
    assert attention_form(*size, backend) == form


@pytest.mark.parametrize(
    ("in_features", "backend", "form"),
    [(64, "cpu", "dense"), (256, "cpu", "multiply_shift"), (2048, "tpu", "dense"), (2048, "gpu", "dense")],
)
def test_wide_convolutions_are_composed_off_the_cpu_only(in_features, backend, form):
    assert convolution_form(in_features, backend) == form


def test_default_backend_is_that_of_the_process(monkeypatch):
    assert convolution_form(2048) == "multiply_shift"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert convolution_form(2048) == "dense"


def test_unknown_backend_gets_the_guess():
    assert convolution_form(2048, "neuron") == "dense"
