import os
import re
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from acmix_jax.benchmark.input import benchmark_input
from acmix_jax.data import pipeline, prepare
from acmix_jax.data.photos import Photo
from acmix_jax.devices import sharding
from acmix_jax.errors import UserError
from acmix_jax.run import lock, workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.run.metrics import read_metrics
from acmix_jax.tasks import create_task
from acmix_jax.training.evaluate import evaluate_checkpoint
from acmix_jax.training.loop import train
from acmix_jax.training.step import create_state, make_train_step
from tests.photographs import write_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, short_config):
    """A run of 12 steps on one device, that logs each."""
    config = short_config.copy_and_resolve_references()
    # A run in which rounding stays below 1e-5; with other seeds and rates it grows to 1e-3 within 12 steps.
    config.log_every, config.optimizer.learning_rate = 1, 2e-4
    folder = tmp_path_factory.mktemp("finished")
    return config, folder, train(config, folder, jax.devices()[:1])


def test_learns_and_records(finished):
    _, folder, state = finished
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.02
    assert rows[-1]["eval_examples"] == 360
    assert 0.45 < rows[-1]["alpha/stage1_block1"] < 0.55
    assert rows[-1]["alpha/stage1_block1"] != 0.5
    assert {"learning_rate", "grad_norm", "images_per_second", "eval_top5"} <= set(rows[-1])
    assert int(state.step) == 12
    assert any(path.name.startswith("events.out.tfevents") for path in folder.iterdir())


def test_eight_devices_compute_what_one_does(finished, tmp_path):
    config, folder, state = finished
    parallel = train(config, tmp_path, jax.devices())
    one, eight = ([row["loss"] for row in read_metrics(path)] for path in (folder, tmp_path))
    np.testing.assert_allclose(eight, one, atol=1e-5)
    assert len(parallel.params["head"]["kernel"].sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(parallel.model_state), jax.tree.leaves(state.model_state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_finished_run_stays_as_it_is(finished, capsys):
    config, folder, state = finished
    before = (folder / "metrics.jsonl").read_text()
    again = train(config, folder, jax.devices()[:1])
    assert "finished before, at step 12" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_text() == before
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_a_checkpoint_evaluates_as_the_run_did(finished):
    config, folder, _ = finished
    last = read_metrics(folder)[-1]
    summary = f"at step 12: top-1 {last['eval_top1']:.2f} %, top-5 {last['eval_top5']:.2f} % of 360 images"
    assert summary in evaluate_checkpoint(config, folder, "latest")


def test_a_workdir_that_is_held_stays_as_it_is(finished, monkeypatch):
    config, folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    def refuse(workdir):
        raise UserError(f"{workdir.name} is held")

    monkeypatch.setattr(lock, "held", refuse)
    with pytest.raises(UserError, match=f"{folder.name} is held"):
        train(config, folder, jax.devices()[:1])
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.slow
def test_bfloat16_learns_and_the_average_evaluates(config, tmp_path, monkeypatch):
    config.dtype, config.ema = "bfloat16", 0.5
    state = train(config, tmp_path, jax.devices()[:1])
    rows = read_metrics(tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.02
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.opt_state))} <= {"float32", "int32"}
    with Checkpoints(tmp_path / "checkpoints", config.best_metric, read_only=True) as checkpoints:
        _, variables = checkpoints.read_variables("latest")
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.average)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)  # on eight, bfloat16 rounds some images over
    top1 = float(re.search(r"top-1 ([\d.]+) %", evaluate_checkpoint(config, tmp_path, "latest"))[1])
    assert top1 == pytest.approx(rows[-1]["eval_top1"], abs=0.005)


def test_a_save_that_fails_half_way_costs_only_that_checkpoint(finished, tmp_path, monkeypatch):
    """As if the run had been killed during the save: the last step of writing, a rename, never comes."""
    config, _, state = finished
    config = config.copy_and_resolve_references()
    config.checkpoint_every = 4
    rename = os.rename

    def fail_at_step_8(source, target):
        if Path(target).name == "8":
            raise OSError("injected")
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write .* earlier ones are intact"):
        patch.setattr(os, "rename", fail_at_step_8)
        train(config, tmp_path, jax.devices()[:1])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert names[0] == "4" and names[1].startswith("8.") and len(names) == 2
    resumed = train(config, tmp_path, jax.devices()[:1])
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()) == ["12", "8"]
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 13))


def test_the_host_reads_no_device_value_between_logs(config, tmp_path, monkeypatch):
    """Arrays are read through these methods; the steps at which one is called are those that log, or save."""
    steps, read = [0], set()
    array, put_batch = type(jax.numpy.zeros(())), sharding.put_batch

    def watched(method):
        def call(*arguments, **keywords):
            read.add(steps[0])
            return method(*arguments, **keywords)

        return call

    def counted(*arguments):
        steps[0] += 1
        return put_batch(*arguments)

    operators = ("array", "float", "int", "index", "bool", "format", "str", "repr")
    for name in (*(f"__{operator}__" for operator in operators), "item", "tolist"):
        monkeypatch.setattr(array, name, watched(getattr(array, name)))
    monkeypatch.setattr(sharding, "put_batch", counted)
    config.log_every = 5
    train(config, tmp_path, jax.devices()[:1])
    assert {step for step in read if 0 < step < 12} == {5, 10}


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config.optimizer.learning_rate = 1e9
    config.checkpoint_every = 1
    with pytest.raises(UserError, match=r"(loss|grad_norm|state_norm) is (nan|inf) at step \d+; .*learning_rate"):
        train(config, tmp_path, jax.devices()[:1])
    with Checkpoints(tmp_path / "checkpoints", config.best_metric, read_only=True) as checkpoints:
        _, variables = checkpoints.read_variables("latest")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_a_folder_holds_one_config(finished):
    config, folder, _ = finished
    other = config.copy_and_resolve_references()
    other.eval_every, other.acmix.shift_form = 3, "slices"  # may change: they do not change the result
    train(other, folder, jax.devices()[:1])
    other.optimizer.learning_rate = 0.3
    with pytest.raises(UserError, match=r"another config \(optimizer.learning_rate: 0.0002 -> 0.3\)"):
        train(other, folder, jax.devices()[:1])


def test_a_run_keeps_its_images(finished, monkeypatch):
    config, folder, _ = finished
    monkeypatch.setattr("acmix_jax.data.arrays.ArraySource.__len__", lambda self: 1436)
    with pytest.raises(UserError, match="started with 1,437 training images, now there are 1,436; restore them"):
        train(config, folder, jax.devices()[:1])


def test_looking_needs_the_config_of_the_run(finished):
    config, folder, _ = finished
    assert workdir.config_to_look_with(folder, None).optimizer == config.optimizer
    other = config.copy_and_resolve_references()
    other.batch_size = 360  # an evaluation may choose its own
    assert workdir.config_to_look_with(folder, other) is other
    other.acmix.window_size = 3
    with pytest.raises(UserError, match=r"acmix.window_size: None -> 3"):
        workdir.config_to_look_with(folder, other)


def test_a_batch_that_does_not_divide_is_refused(config, tmp_path):
    config.batch_size = 12
    with pytest.raises(UserError, match="batch_size=12 is not divisible by the 8 devices; .*=8 or 16"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


class Small(nn.Module):
    """One convolution, and a classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(8, (3, 3))(images)).mean((1, 2)))


class TwoSizes:
    """Images of 8x8 and 6x6 pixels in turns, the one at index 3 corrupt."""

    num_classes = 10

    def __len__(self):
        return 40

    def __getitem__(self, index):
        size = 6 if self.group_of(index) else 8
        image = Photo(b"", "corrupt") if index == 3 else np.full((size, size, 1), 6 * index, np.uint8)
        return {"image": image, "label": np.int32(index % 10)}

    def group_of(self, index):
        return index % 2


def test_one_step_is_compiled_for_each_size_of_the_images(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(pipeline.SOURCES, "two_sizes", lambda split, directory: TwoSizes())
    monkeypatch.setattr("acmix_jax.tasks.classification.create_model", lambda name, num_classes, *_, **__: Small(10))
    config.data.source, config.data.damaged, config.data.shift, config.log_every = "two_sizes", "skip", 0, 0
    config.batch_size, config.num_epochs, config.label_smoothing = 8, 2.4, 0.0
    train(config, tmp_path, jax.devices()[:1])
    said = capsys.readouterr().err
    assert said.count("train step compiled in") == 2
    assert "for 1 x cpu, image 8x8x1" in said
    assert "for 1 x cpu, image 6x6x1" in said
    (row,) = read_metrics(tmp_path)
    assert (row["step"], row["eval_examples"]) == (12, 39)
    assert row["skipped_count"] in (2, 3)  # once a pass; summed over the steps


@pytest.mark.slow
def test_fsdp_holds_a_quarter_on_each_device_and_computes_the_same(config, tmp_path):
    config.log_every, config.optimizer.learning_rate = 1, 2e-4  # as `finished`
    train(config, tmp_path / "one", jax.devices()[:1])
    config.fsdp = 4
    state = train(config, tmp_path / "four", jax.devices()[:4])
    one, four = ([row["loss"] for row in read_metrics(tmp_path / name)] for name in ("one", "four"))
    assert len(one) == 12
    np.testing.assert_allclose(four, one, atol=1e-5)
    leaves = jax.tree.leaves((state.params, state.opt_state))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held / sum(leaf.nbytes for leaf in leaves) < 0.27


@pytest.mark.slow
def test_a_batch_in_parts_has_the_gradient_of_the_whole(config):
    """For a network without BatchNorm."""
    config.model, config.accumulate, config.batch_size, config.label_smoothing = "acmix_swin_micro_patch2", 4, 16, 0.1
    config.drop_path = 0.0
    task = create_task(config)
    optimizer = optax.sgd(1.0)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8), "label": np.arange(16, dtype=np.int32) % 10,
    }  # fmt: skip
    state = jax.jit(partial(create_state, task, optimizer, batch))(jax.random.key(0))
    whole, parts = (
        jax.jit(make_train_step(task, optimizer, lambda step: 1.0, 0, accumulate))(state, batch)
        for accumulate in (1, 4)
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_a_folder_of_photographs_trains_as_its_shards_do(config, tmp_path):
    """510 pieces of photographs to train with and 60 to test, decoded, cropped and flipped."""
    folder = write_folder(tmp_path / "folder", train=170, test=20, largest=200)
    prepare.prepare(folder, tmp_path / "records", images_per_shard=100, threads=2, skip_damaged=False)
    config.batch_size, config.num_epochs = 30, 2.0
    config.optimizer.learning_rate, config.checkpoint_every = 0.02, 17
    config.data.update({"num_classes": 3, "mean": [0.5], "std": [0.25], "image_size": 16, "eval_resize": 18})
    config.data.update({"random_crop": True, "crop_scale": [0.3, 1.0], "flip": True, "shift": 0})
    states = []
    for config.data.source in ("folder", "records"):
        config.data.dir = str(tmp_path / config.data.source)
        states.append(train(config, tmp_path / f"run_{config.data.source}", jax.devices()[:1]))
    jax.tree.map(np.testing.assert_array_equal, *states)
    last = read_metrics(tmp_path / "run_folder")[-1]
    assert last["step"] == 34
    assert last["eval_examples"] == 60
    assert last["eval_top1"] > 80  # by colour alone it is easy


@pytest.mark.slow
def test_input_and_devices_are_compared(config):
    summary = benchmark_input(config, seconds=0.5)
    assert re.fullmatch(r"input alone: [\d,]+ images/s; training on one batch .*: [\d,]+ images/s; the .*", summary)
