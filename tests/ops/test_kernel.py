import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from acmix_jax.ops.neighborhood import kernel, neighborhood_attention, tiled
from acmix_jax.ops.neighborhood.reference import reference_attention

WINDOW = (3, 1, 1)
CARD = jax.sharding.AbstractDevice("NVIDIA H100", None, "cuda")  # without a GPU, jax 0.11 wants to know for which
MESH = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=CARD)
interpreted = partial(kernel.kernel_attention, interpret="cuda")


@pytest.fixture
def arrays():
    """q, k, v `[4, 5, 6, 2, 16]` and a position."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(*batch, 5, 6, *heads, 16)), jnp.float32)
            for batch, heads in [((4,), (2,))] * 3 + [((), ())]]  # fmt: skip


@pytest.fixture
def warnings():
    kernel._warn.cache_clear()


def gradients(form):
    return jax.grad(lambda *arrays: (form(*arrays, *WINDOW) ** 2).sum(), argnums=(0, 1, 2, 3))


def assert_near(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max()), actual, expected)


@pytest.mark.parametrize("platform", kernel.KERNELS)
def test_has_the_gradient_of_the_definition(arrays, platform):
    interpreted = partial(kernel.kernel_attention, interpret=platform)
    assert_near(jax.jit(gradients(interpreted))(*arrays), jax.jit(gradients(reference_attention))(*arrays))


@pytest.mark.parametrize("platform", kernel.KERNELS)
def test_devices_compute_their_images_without_asking_each_other(arrays, platform):
    interpreted = partial(kernel.kernel_attention, interpret=platform)
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    q, k, v, position = arrays
    split = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names))) for x in (q, k, v)]

    def gradient(form):  # that of the position is a sum over the images
        return lambda q, k, v: gradients(form)(q, k, v, position)[:3]

    with jax.set_mesh(mesh):
        program = jax.jit(gradient(interpreted)).lower(*split).compile()
    collectives = re.findall(r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute", program.as_text())
    assert collectives == []
    assert_near(program(*split), jax.jit(gradient(reference_attention))(q, k, v))


def test_runs_inside_shard_map(arrays):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    batch = PartitionSpec("data")

    def form(q, k, v):
        return interpreted(q, k, v, None, *WINDOW)

    q, k, v, _ = arrays
    with jax.set_mesh(mesh):
        out = jax.jit(jax.shard_map(form, in_specs=batch, out_specs=batch, check_vma=False))(q, k, v)
    assert_near(out, reference_attention(q, k, v, None, *WINDOW))


def test_a_batch_that_does_not_divide_is_computed_whole(arrays):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    q, k, v, _ = (x[:3] for x in arrays)
    with jax.set_mesh(mesh):
        out = jax.jit(lambda q, k, v: interpreted(q, k, v, None, *WINDOW))(q, k, v)
    assert_near(out, reference_attention(q, k, v, None, *WINDOW))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # from jax 0.11 on
def test_a_program_for_nvidia_has_kernels_and_none_for_cpus(arrays):
    def calls(platform):
        with jax.sharding.use_abstract_mesh(MESH):
            traced = jax.jit(gradients(kernel.kernel_attention)).trace(*arrays)
            return re.findall(r'name = "(\w+_kernel)"', traced.lower(lowering_platforms=(platform,)).as_text())

    assert calls("cuda") == ["forward_kernel", "dq_kernel", "dkv_kernel"]
    assert calls("cpu") == []


@pytest.mark.parametrize("change", [lambda x: x[..., :3], lambda x: x[:0]], ids=["3 channels", "empty batch"])
def test_what_no_kernel_computes_is_tiled(arrays, change):
    q, k, v, position = *map(change, arrays[:3]), change(arrays[3]) if change(arrays[0]).size else arrays[3]
    out = jax.jit(partial(neighborhood_attention, window_size=3, form="kernel"))(q, k, v, position)
    expected = jax.jit(lambda *arrays: tiled.tiled_attention(*arrays, *WINDOW))(q, k, v, position)
    np.testing.assert_array_equal(out, expected)


def test_a_symbolic_batch_is_tiled(arrays):
    q, *_, position = arrays
    (batch,) = export.symbolic_shape("b")
    maps = [jax.ShapeDtypeStruct((batch, *q.shape[1:]), q.dtype)] * 3
    program = export.export(jax.jit(gradients(kernel.kernel_attention)))(*maps, position)
    assert_near(program.call(*arrays), jax.jit(gradients(reference_attention))(*arrays))


@pytest.mark.parametrize("platform", kernel.KERNELS)
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_64_bits_change_nothing(arrays, platform):
    """Integers of 64 bits would not lower beside those of 32."""
    with jax.enable_x64(True), jax.sharding.use_abstract_mesh(MESH):
        traced = jax.jit(gradients(kernel.kernel_attention)).trace(*arrays)
        assert "custom_call" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_each_reason_is_said_once(arrays, warnings, capsys, monkeypatch):
    for _ in range(2):
        kernel.kernel_attention(*arrays, *WINDOW)
    assert capsys.readouterr().err == (
        "warning: form 'kernel' of the attention is computed as 'tiled' in programs for cpu: there is no kernel\n"
    )
    monkeypatch.setattr(kernel, "_platform", lambda: "cuda")
    kernel.kernel_attention(*(x[..., :3] for x in arrays), *WINDOW)
    assert capsys.readouterr().err.endswith("3 channels a head, not 16, 32, 64, 128\n")


def test_a_jax_without_the_backend_of_pallas_is_told(arrays, warnings, capsys, monkeypatch):
    monkeypatch.setitem(kernel.KERNELS, "cuda", "jax.experimental.pallas.removed")
    monkeypatch.setattr(kernel, "_platform", lambda: "cuda")
    kernel._load.cache_clear()
    out = kernel.kernel_attention(*arrays, *WINDOW)
    kernel._load.cache_clear()
    assert_near(out, reference_attention(*arrays, *WINDOW))
    assert capsys.readouterr().err.endswith("this jax has no Pallas for it\n")
