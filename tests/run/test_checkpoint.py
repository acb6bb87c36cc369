import os
import resource
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.devices.sharding import make_mesh, replicated, with_sharding
from acmix_jax.errors import UserError
from acmix_jax.run.checkpoint import Checkpoints, checksum


def state(value):
    kernel = jnp.full((40, 50), value, jnp.float32)
    return {"params": {"kernel": kernel}, "model_state": {"batch_stats": {"mean": kernel[0]}}, "step": jnp.int32(value)}


SHAPES = with_sharding(jax.eval_shape(lambda: state(0)), replicated(make_mesh(8)))


@pytest.fixture
def folder(tmp_path):
    """Steps 1 to 5; step 2 was the best."""
    with Checkpoints(tmp_path / "checkpoints", best="top1") as checkpoints:
        for step in range(1, 6):
            metrics = {"top1": 90.0 if step == 2 else 80.0} if step != 4 else None
            checkpoints.save(step, state(step), metrics)
    return tmp_path / "checkpoints"


def restore(folder):
    with Checkpoints(folder, best="top1") as checkpoints:
        restored = checkpoints.restore(SHAPES)
    return int(restored["step"]), float(restored["params"]["kernel"][3, 4])


def test_keeps_the_newest_and_the_best(folder):
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["2", "4", "5"]
    assert restore(folder) == (5, 5.0)


def test_reads_variables_without_the_optimizer(folder):
    with Checkpoints(folder, best="top1", read_only=True) as checkpoints:
        for which, step in (("latest", 5), ("best", 2), ("4", 4)):
            number, variables = checkpoints.read_variables(which)
            assert number == step
            assert set(variables) == {"params", "batch_stats"}
            np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.full(50, step))
        with pytest.raises(UserError, match="no checkpoint '3' .* set --checkpoint to one of its steps: 2, 4, 5"):
            checkpoints.read_variables("3")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def values(folder):
    """The files that hold the arrays (Orbax keeps some of them twice)."""
    return [path for path in (folder / "state").rglob("*") if path.is_file() and path.parent.name == "d"]


@pytest.mark.parametrize("corrupt", [truncate, flip_a_bit, lambda path: path.unlink()])
def test_a_corrupt_checkpoint_gives_way_to_the_one_before(folder, corrupt, capsys):
    for path in values(folder / "5"):
        corrupt(path)
    assert restore(folder) == (4, 4.0)
    warning = capsys.readouterr().err
    assert "checkpoint 5 is corrupt" in warning
    assert "resuming from checkpoint 4" in warning
    assert warning.count("\n") == 1
    assert "Traceback" not in warning
    assert [path.name[:20] for path in folder.parent.iterdir() if path != folder] == ["corrupt_checkpoint_5"]
    assert restore(folder)[0] == 4
    assert capsys.readouterr().err == ""


def test_wrong_values_are_detected(folder, capsys, monkeypatch):
    """A checkpoint that reads without an error, but differs from what was saved."""
    monkeypatch.setattr("acmix_jax.run.checkpoint.checksum", lambda tree: checksum(tree) + (tree["step"] == 5))
    assert restore(folder) == (4, 4.0)
    assert "values are not those that were saved" in capsys.readouterr().err


def test_nothing_is_moved_if_all_are_unreadable(folder):
    for step in ("2", "4", "5"):
        for path in values(folder / step):
            truncate(path)
    with pytest.raises(UserError, match="no checkpoint in .* can be read"):
        restore(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoints"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of writes that Orbax abandons
def test_a_full_disk_is_reported_and_keeps_earlier_checkpoints(folder):
    noise = state(0) | {"params": {"kernel": jax.random.normal(jax.random.key(0), (40, 50))}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        message = "cannot write a checkpoint in .* earlier ones are intact"
        with pytest.raises(UserError, match=message), Checkpoints(folder, best="top1") as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # stands in for a disk with 4 kB left
            checkpoints.save(6, noise, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert restore(folder) == (5, 5.0)


def test_a_save_copies_and_writes_in_the_background(tmp_path, monkeypatch):
    """It returns while the last step of writing, a rename, still waits."""
    rename, finish = os.rename, threading.Event()

    def rename_when_told(source, target):
        if Path(target).name == "1":
            assert finish.wait(timeout=60)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_when_told)
    with Checkpoints(tmp_path / "checkpoints", best="top1") as checkpoints:
        checkpoints.save(1, state(1), None)
        assert not (tmp_path / "checkpoints" / "1").exists()
        finish.set()
    assert (tmp_path / "checkpoints" / "1").exists()


def test_averaged_parameters_are_read(tmp_path):
    averaging = {**state(1), "average": {"kernel": jnp.full((40, 50), 7.0)}}
    with Checkpoints(tmp_path / "checkpoints", best="top1") as checkpoints:
        checkpoints.save(1, averaging, None)
    with Checkpoints(tmp_path / "checkpoints", best="top1", read_only=True) as checkpoints:
        _, variables = checkpoints.read_variables("latest")
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(variables["params"]["kernel"], np.full((40, 50), 7.0))


def test_no_checkpoint_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", best="top1") as checkpoints:
        assert checkpoints.restore(SHAPES) is None


def test_checksum_depends_on_every_bit_and_no_sharding():
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    one = checksum({"a": jnp.asarray(x), "b": jnp.int32(1)})
    mesh = make_mesh(8)
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert checksum({"a": split, "b": jnp.int32(1)}) == one
    for bit in (0, 17, 31):
        changed = x.copy().view(np.uint32)
        changed[5, 3] ^= np.uint32(1 << bit)
        assert checksum({"a": jnp.asarray(changed.view(np.float32)), "b": jnp.int32(1)}) != one
    assert checksum({"a": jnp.asarray(x[::-1].copy()), "b": jnp.int32(1)}) != one
