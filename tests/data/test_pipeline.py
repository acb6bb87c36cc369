import hashlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from acmix_jax.config import default_config
from acmix_jax.data import classification, pipeline
from acmix_jax.data.arrays import ArraySource
from acmix_jax.errors import UserError
from tests.photographs import write_folder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def settings():
    return default_config().data


def numbered(count):
    """Examples whose label is their index."""
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
    return ArraySource(images, np.arange(count))


def train_batches(source, settings, **arguments):
    return pipeline.train_batches(source, settings, partial(classification.change, settings), **arguments)


def eval_batches(source, settings, batch_size):
    return pipeline.eval_batches(source, settings, partial(classification.change, settings), batch_size)


def labels(batches, count):
    return np.concatenate([batch["label"] for batch in itertools.islice(batches, count)]).tolist()


def test_every_pass_has_every_example_once_in_a_new_order(settings):
    order = labels(train_batches(numbered(10), settings, batch_size=4, seed=0), 5)
    first, second = order[:10], order[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_seed_keeps_its_order_and_its_augmentation(settings):
    """Pinned, so that old runs resume with the batches that they would have seen."""
    batches = itertools.islice(train_batches(numbered(10), settings, batch_size=4, seed=7), 6)
    assert [batch["index"].tolist() for batch in batches] == [
        [8, 0, 7, 1], [3, 6, 2, 4], [5, 9, 9, 0], [8, 6, 7, 1], [3, 4, 2, 5], [1, 5, 3, 4],
    ]  # fmt: skip
    settings.repeats, settings.shift, settings.flip = 3, 2, True
    batches = train_batches(numbered(10), settings, batch_size=4, seed=7, start=2)
    batches = list(itertools.islice(batches, 2))
    assert [batch["index"].tolist() for batch in batches] == [[7, 1, 9, 9], [9, 0, 0, 0]]
    assert hashlib.sha256(b"".join(b["image"].tobytes() for b in batches)).hexdigest().startswith("93461444b5e84e7d")


def test_the_seed_decides_the_order_and_the_augmentation(settings):
    settings.shift, settings.flip = 2, True

    def images(seed):
        return next(train_batches(numbered(10), settings, batch_size=8, seed=seed))["image"]

    np.testing.assert_array_equal(images(0), images(0))
    assert (images(0) != images(1)).any()


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_continue_from_any_step(settings, workers):
    """With any number of workers: a run may go on with another one."""
    settings.shift = 2
    whole = list(itertools.islice(train_batches(numbered(10), settings, batch_size=4, seed=0), 6))
    settings.workers = workers
    continued = train_batches(numbered(10), settings, batch_size=4, seed=0, start=3)
    assert_same(itertools.islice(continued, 3), whole[3:])


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (4, 0), (2, 1)])
def test_processes_share_the_batches_of_one(settings, monkeypatch, processes, workers):
    settings.shift = 2
    whole = list(itertools.islice(train_batches(numbered(10), settings, batch_size=8, seed=0), 4))
    monkeypatch.setattr("jax.process_count", lambda: processes)  # workers do not hear of it
    settings.workers = workers
    shares = []
    for process in range(processes):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        batches = train_batches(numbered(10), settings, batch_size=8, seed=0)
        shares.append(list(itertools.islice(batches, 4)))
    joined = [{name: np.concatenate([b[name] for b in step]) for name in step[0]} for step in zip(*shares, strict=True)]
    assert_same(joined, whole)


def test_repeated_augmentation_shows_a_third_of_the_images_three_times(settings):
    settings.repeats, settings.shift = 3, 2
    first, second = itertools.islice(train_batches(numbered(12), settings, batch_size=12, seed=0), 2)
    for batch in (first, second):
        assert (np.bincount(batch["label"], minlength=12).reshape(-1) % 3 == 0).all()
        assert len(set(batch["label"].tolist())) == 4
        assert len({image.tobytes() for image in batch["image"]}) > 4
    assert set(first["label"].tolist()) != set(second["label"].tolist())


def test_a_corrupt_image_ends_the_run_or_is_replaced_by_the_next(settings, tmp_path, capfd):
    folder = write_folder(tmp_path, train=4, test=1)
    (folder / "train" / "flower" / "0001.JPEG").write_bytes(b"")  # index 5
    settings.source, settings.dir, settings.image_size = "folder", str(folder), 8
    source = pipeline.open_source(settings, "train")
    message = r"^image .*/train/flower/0001.JPEG is corrupt \(it is empty\); .* --config.data.damaged=skip$"
    with pytest.raises(UserError, match=message):
        list(itertools.islice(train_batches(source, settings, batch_size=12, seed=0), 1))
    settings.damaged = "skip"
    (batch,) = itertools.islice(train_batches(source, settings, batch_size=12, seed=0), 1)
    assert sorted(batch["index"].tolist()) == [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11]
    assert batch["skipped_count"].sum() == 1
    assert "flower/0001.JPEG is corrupt (it is empty); using the next one" in capfd.readouterr().err
    (evaluated,) = eval_batches(source, settings, 16)
    assert evaluated["mask"].tolist() == [1] * 5 + [0] + [1] * 6 + [0] * 4


def test_a_file_that_cannot_be_read_is_as_a_corrupt_one(settings, tmp_path, capfd):
    folder = write_folder(tmp_path, train=2, test=1)
    source = pipeline.FolderSource(str(folder), "train")
    (folder / "train" / "flower" / "0001.JPEG").unlink()  # index 3
    (folder / "train" / "flower" / "0001.JPEG").symlink_to("/nowhere/1.JPEG")
    settings.image_size = 8
    with pytest.raises(UserError, match=r"0001.JPEG cannot be read \(it is a link that leads nowhere\); repair or"):
        list(eval_batches(source, settings, 6))
    settings.damaged = "skip"
    (batch,) = itertools.islice(train_batches(source, settings, batch_size=6, seed=0), 1)
    assert sorted(batch["index"].tolist()) == [0, 1, 2, 4, 4, 5]
    (evaluated,) = eval_batches(source, settings, 6)
    assert evaluated["mask"].tolist() == [1, 1, 1, 0, 1, 1]
    assert "0001.JPEG cannot be read (it is a link that leads nowhere); using the next one" in capfd.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 16])
def test_evaluation_counts_each_example_once(settings, batch_size):
    batches = list(eval_batches(numbered(10), settings, batch_size))
    assert all(batch["image"].shape == (batch_size, 6, 6, 1) for batch in batches)
    real = np.concatenate([batch["label"][batch["mask"] > 0] for batch in batches])
    assert real.tolist() == list(range(10))


@pytest.mark.parametrize(("size", "workers"), [(8, 0), (10, 0), (10, 1)])
def test_evaluation_shared_by_two_processes_counts_each_example_once(settings, monkeypatch, size, workers):
    settings.workers = workers
    seen = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        for batch in eval_batches(numbered(size), settings, 4):
            assert len(batch["label"]) == 2
            seen += batch["label"][batch["mask"] > 0].tolist()
    assert sorted(seen) == list(range(size))


def test_an_unknown_source_is_named(settings):
    settings.source = "digit"
    with pytest.raises(UserError, match="unknown data source 'digit'; did you mean digits"):
        pipeline.open_source(settings, "train")


def test_an_error_in_a_worker_keeps_its_message(settings, tmp_path):
    folder = write_folder(tmp_path, train=1, test=1)
    (folder / "train" / "flower" / "0000.JPEG").write_bytes(b"no image")
    settings.source, settings.dir, settings.image_size, settings.workers = "folder", str(folder), 8, 1
    source = pipeline.open_source(settings, "train")
    with pytest.raises(UserError, match=r"flower/0000.JPEG is corrupt \(it is no image\)"):
        next(train_batches(source, settings, batch_size=3, seed=0))


def test_a_worker_that_is_killed_is_noticed(settings):
    settings.workers = 2
    batches = train_batches(numbered(10), settings, batch_size=4, seed=0)
    next(batches)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(UserError, match="a worker process .* ended"):
        for _ in range(100):
            next(batches)


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    program = """
import multiprocessing, sys, time
from functools import partial
import grain
from absl import flags
from acmix_jax.data import classification, pipeline
from configs import digits

if __name__ == "__main__":
    flags.FLAGS(sys.argv)
    config = digits.get_config().data
    config.workers = 2
    source, change = pipeline.open_source(config, "train"), partial(classification.change, config)
    batches = pipeline.train_batches(source, config, change, 4, seed=0)
    next(batches), next(batches)  # one of each worker
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""
    (tmp_path / "program.py").write_text(program)
    command, environment = [sys.executable, str(tmp_path / "program.py")], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        workers = [int(number) for number in started.stdout.readline().split()]
        started.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(is_running(number) for number in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(number):
    """Not so if it only waits to be counted as ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False
