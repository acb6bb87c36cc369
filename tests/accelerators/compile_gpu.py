"""Programs of every family compile for an H100, without one.

`make gpu` runs this file. `make test`, which has no compiler for GPUs, passes over files of this name.
"""

import pytest

from acmix_jax.benchmark import devices
from experiments.compile_for import Job, compile_apart

SMALLEST = ["acmix_resnet14_stem1", "acmix_san5_stem1", "acmix_pvt_micro_patch2", "acmix_swin_micro_patch2"]


@pytest.fixture(autouse=True)
def own_flags(monkeypatch):
    """Compiles as users do, without the flags of the quick suite."""
    monkeypatch.delenv("XLA_FLAGS")


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [*((name, 32, "") for name in SMALLEST), ("resnet26", 224, ""), ("acmix_resnet26", 224, "attention_form=kernel")],
)
def test_a_train_step_compiles(name, size, settings):
    """`resnet26` is the smallest whose strided 1x1 convolutions have ended XLA's compiler (openxla/xla#47381)."""
    row = compile_apart(Job(name, "train", "h100", 8, size, "bfloat16", 1, settings))
    assert row["status"].startswith("ok"), row["status"]
    assert row["fits"]


def test_sixteen_gpus_are_two_hosts():
    found = devices.devices_of("h100x16")
    assert (len(found), len({device.process_index for device in found})) == (16, 2)
