"""Targets by name, and the compiler's facts; compiles for the CPU's own devices alone, see tests/accelerators."""

import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from acmix_jax.benchmark import devices
from acmix_jax.errors import UserError


@pytest.fixture
def asked(monkeypatch):
    """Options that a compiler, taken for installed, is asked for."""
    arguments = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(
        topologies, "get_topology_desc", lambda **given: arguments.update(given) or SimpleNamespace(devices=["a"])
    )
    return arguments


def product(batch=64):
    """`x @ x.T` of one float32 matrix `[batch, 64]`."""
    return jax.jit(lambda x: x @ x.T).lower(jax.ShapeDtypeStruct((batch, 64), jnp.float32)).compile()


def test_facts_are_those_of_the_program():
    facts = devices.facts_of(product(), "cpu")
    assert (facts.arguments_gib, facts.results_gib) == (2**-16, 2**-16)
    assert facts.total_gib >= 2**-15
    assert facts.gflops == pytest.approx(2 * 64**3 / 1e9)
    assert (facts.fits, facts.estimate_ms, facts.unknown_ops, facts.collectives) == (None, None, None, "")


def test_a_program_fits_or_not(monkeypatch):
    assert devices.facts_of(product(), "h100x8").fits
    monkeypatch.setitem(devices.TPUS, "v5e", 2**-15 - 2**-20)
    assert devices.facts_of(product(), "v5e:2x2").fits is False


def test_collectives_are_counted():
    mesh = devices.mesh_for("cpu", batch_size=8, fsdp=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    lowered = jax.jit(lambda x: x.sum()).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=rows))
    assert devices.facts_of(lowered.compile(), "cpu").collectives == "1 all-reduce"


@pytest.mark.parametrize(("seconds", "expected"), [(None, (None, None)), (0.25, (250, 0)), (0.25 - 3, (250, 3))])
def test_operations_of_unknown_time_are_added_back(seconds, expected):
    assert devices.estimate(seconds) == expected


@pytest.mark.parametrize(
    ("target", "backend", "gib"),
    [("cpu", "cpu", None), ("h100", "gpu", 79.65), ("h100x8", "gpu", 79.65), ("v5e:4x4", "tpu", 16)],
)
def test_a_target_has_a_backend_and_memory(target, backend, gib):
    assert devices.backend_of(target) == backend
    assert devices.memory_gib(target) == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(("target", "near"), [("v5e", "v5e:1x1 or v5e:2x2"), ("h1000", "h100"), ("v6f:2x2", "v6e:2x2")])
def test_an_unknown_target_is_refused_with_the_nearest(target, near):
    with pytest.raises(UserError, match=f"unknown target '{target}'; did you mean {near}"):
        devices.devices_of(target)


@pytest.mark.parametrize(("target", "package"), [("v5e:2x2", r"jax\[tpu\]"), ("h100", r"jax\[cuda12\]")])
def test_an_absent_compiler_is_named(target, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=f'target {target} needs .*, which is not installed; pip install "{package}"'):
        devices.check_target(target)


@pytest.mark.parametrize(("target", "shape"), [("h100", "1x1x1"), ("h100x4", "1x1x4"), ("h100x16", "1x2x8")])
def test_gpus_beyond_eight_are_on_several_hosts(target, shape, asked):
    assert devices.devices_of(target) == ["a"]
    assert (asked["platform"], asked["topology"]) == ("cuda", shape)


def test_a_v4_chip_is_one_device(asked, monkeypatch):
    monkeypatch.setattr(devices.os, "environ", {})
    devices.devices_of("v4:2x2x2")
    assert asked == {"platform": "tpu", "topology_name": "v4:2x2x2", "chip_config_name": "megacore"}


def test_a_slice_that_the_compiler_refuses_is_a_mistake_of_the_user(monkeypatch, asked):
    def refuse(**_):
        raise RuntimeError("not divisible\nby 3")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match="target v5e:3x7 is not possible: not divisible; use one such as cpu, h100, "):
        devices.devices_of("v5e:3x7")
