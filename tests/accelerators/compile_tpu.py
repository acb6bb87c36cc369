"""Programs of every family compile for TPUs, without one.

`make tpu` runs this file. `make test`, which has no compiler for TPUs, passes over files of this name.
"""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import acmix_jax
from acmix_jax.benchmark import devices, tpu_schedule
from acmix_jax.devices import sharding
from acmix_jax.layers.attention import LocalAttention
from experiments import kernel_cycles
from experiments.compile_for import Job, compile_apart

SLICE = "v5e:2x2"
KERNEL = "attention_form=kernel"
SMALLEST = ["acmix_resnet14_stem1", "acmix_san5_stem1", "acmix_pvt_micro_patch2", "acmix_swin_micro_patch2"]


@pytest.fixture(autouse=True)
def own_flags(monkeypatch):
    """Compiles as users do, without the flags of the quick suite."""
    monkeypatch.delenv("XLA_FLAGS")


@pytest.mark.parametrize(("name", "settings"), [*((name, "") for name in SMALLEST), (SMALLEST[0], KERNEL)])
def test_a_train_step_compiles(name, settings):
    row = compile_apart(Job(name, "train", SLICE, 8, 32, "bfloat16", 1, settings))
    assert row["status"] == "ok"
    assert row["estimate_ms"] > 0
    assert row["fits"]


@pytest.mark.parametrize("target", ["v5e:4x4", "v4:2x2x2", "v6e:2x2", "v5p:2x2x1"])
def test_a_slice_has_its_chips(target):
    chips = {"v5e:4x4": (16, 4), "v4:2x2x2": (8, 2), "v6e:2x2": (4, 1), "v5p:2x2x1": (4, 1)}
    found = devices.devices_of(target)
    assert (len(found), len({device.process_index for device in found})) == chips[target]


@pytest.mark.parametrize("form", ["tiled", "kernel"])
def test_a_layer_on_several_hosts_only_adds_gradients(form):
    """The rows of the batch stay where they are: no chip gathers what others hold."""
    attention = partial(LocalAttention, form=form)
    layer = acmix_jax.ACmix(64, 4, attention_kind=attention, dtype=jnp.bfloat16)
    mesh = devices.mesh_for("v5e:4x4", batch_size=16)
    x = {"x": jax.ShapeDtypeStruct((1, 28, 28, 64), jnp.bfloat16)}
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros(x["x"].shape, jnp.bfloat16)))
    rows = sharding.batch_shapes(x, 16, mesh)["x"]
    gradient = jax.grad(lambda variables, x: (layer.apply(variables, x).astype(jnp.float32) ** 2).sum())
    with jax.set_mesh(mesh):
        compiled = jax.jit(gradient).lower(sharding.with_sharding(variables, sharding.replicated(mesh)), rows).compile()
    kinds = {collective.split()[1] for collective in devices.facts_of(compiled, "v5e:4x4").collectives.split(", ")}
    assert kinds == {"all-reduce"}
    assert ("tpu_custom_call" in compiled.as_text()) == (form == "kernel")


@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_cycles_of_a_kernel_are_counted(kernel):
    row = kernel_cycles.count(kernel_cycles.LAYERS["512@7"], kernel, "bfloat16")
    assert 10_000 < row["cycles"] < 200_000
    assert row["MXU"] > 0.2


PRODUCT = """
import jax, jax.numpy as jnp
from acmix_jax.benchmark.devices import devices_of

here = jax.sharding.SingleDeviceSharding(devices_of("v5e:1x1")[0])
x = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=here)
jax.jit(lambda x: jnp.maximum(x @ x, 0)).lower(x).compile()
"""


def test_the_schedule_of_a_matrix_product_fills_the_matrix_unit(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--xla_jf_dump_to={tmp_path} --xla_jf_dump_llo_text=true")
    subprocess.run([sys.executable, "-c", PRODUCT], check=True)
    (kernel,) = tpu_schedule.read_schedules(tmp_path)
    assert kernel.cycles == pytest.approx(512**3 / (4 * 128 * 128), rel=0.3)  # four units of 128 x 128 multipliers
    assert kernel.filled["MXU"] > 0.8
