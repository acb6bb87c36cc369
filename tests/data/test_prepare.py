import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from acmix_jax.config import default_config
from acmix_jax.data import classification, pipeline, prepare
from acmix_jax.errors import UserError
from tests.photographs import write_folder


def run(folder, out, images_per_shard=4, skip_damaged=False):
    return prepare.prepare(folder, out, images_per_shard, threads=2, skip_damaged=skip_damaged)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), train=4, test=2)


@pytest.fixture
def settings():
    settings = default_config().data
    settings.num_classes, settings.image_size, settings.eval_resize, settings.random_crop = 3, 24, 28, True
    return settings


def test_shards_give_the_batches_of_the_folder(folder, tmp_path, settings):
    assert run(folder, tmp_path / "out") == f"12 training and 6 test images are in {tmp_path / 'out'}"
    batches = []
    for settings.source, settings.dir in (("folder", str(folder)), ("records", str(tmp_path / "out"))):
        train, test = (pipeline.open_source(settings, split) for split in ("train", "test"))
        assert train.classes == ["china", "flower", "hopper"]
        change = partial(classification.change, settings)
        endless = pipeline.train_batches(train, settings, change, batch_size=5, seed=3)
        batches.append([*itertools.islice(endless, 4), *pipeline.eval_batches(test, settings, change, 4)])
    assert len(batches[0]) == 6
    for found, wanted in zip(*batches, strict=True):
        assert set(found) == set(wanted)
        for name in found:
            np.testing.assert_array_equal(found[name], wanted[name])


def test_only_what_is_missing_is_made_again(folder, tmp_path):
    run(folder, tmp_path)
    shards = sorted(tmp_path.glob("*.array_record"))
    assert len(shards) == 5
    times = {shard: shard.stat().st_mtime_ns for shard in shards}
    shards[1].unlink()
    shards[0].with_suffix(".partial").write_bytes(b"half of a shard")
    run(folder, tmp_path)
    assert [shard for shard in shards if shard.stat().st_mtime_ns != times[shard]] == [shards[1]]


def test_killed_and_started_again_it_completes(tmp_path):
    folder = write_folder(tmp_path / "folder", train=60, test=1)
    command = [sys.executable, "-m", "acmix_jax.data.prepare", f"--folder={folder}", f"--out={tmp_path / 'out'}"]
    command += ["--images-per-shard=8", "--threads=1"]
    program = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not list((tmp_path / "out").glob("*.array_record")):
        time.sleep(0.01)
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    assert not (tmp_path / "out" / "dataset.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "180 training and 3 test images" in done.stdout
    assert " left" in done.stderr  # a rate and an ETA


def test_corrupt_images_are_listed_by_name_or_left_out(tmp_path):
    folder = write_folder(tmp_path / "folder", train=3, test=1)
    corrupt = folder / "train" / "flower" / "0001.JPEG"
    corrupt.write_bytes(corrupt.read_bytes()[:900])
    with pytest.raises(
        UserError, match=r"1 images such as .*flower/0001.JPEG are corrupt or .*; .* add --skip-damaged"
    ):
        run(folder, tmp_path / "out")
    assert (tmp_path / "out" / "damaged.txt").read_text() == f"{corrupt}\n"
    assert run(folder, tmp_path / "out", skip_damaged=True).startswith("8 training and 3 test images")  # as it says
    with pytest.raises(UserError, match="shards of other images or options; choose another --out"):
        run(folder, tmp_path / "out")
    assert run(folder, tmp_path / "less", skip_damaged=True).startswith("8 training and 3 test images")
    (tmp_path / "less" / "damaged.txt").unlink()
    run(folder, tmp_path / "less", skip_damaged=True)  # what was stopped before its end knows of them from the shards
    assert (tmp_path / "less" / "damaged.txt").read_text() == f"{corrupt}\n"
    contents = json.loads((tmp_path / "less" / "dataset.json").read_text())
    assert contents["splits"]["train"] == {"shards": 3, "images": 8}


def test_all_images_that_cannot_be_read_are_listed(tmp_path, capfd):
    folder = write_folder(tmp_path / "folder", train=2, test=1)
    for name in ("china/2", "hopper/2"):
        (folder / "train" / f"{name}.jpg").symlink_to("nowhere.jpg")
    (folder / "val" / "flower" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^3 images such as .*/train/china/2.jpg are corrupt or cannot be read, "):
        run(folder, tmp_path / "out")
    said = capfd.readouterr().err
    for name in ("china/2", "hopper/2"):
        assert f"warning: image {folder}/train/{name}.jpg cannot be read (it is a link that leads nowhere)\n" in said
    assert f"warning: image {folder}/val/flower/1.png is corrupt (it is empty)\n" in said
    run(folder, tmp_path / "less", skip_damaged=True)
    named = [f"{folder}/{name}" for name in ("train/china/2.jpg", "train/hopper/2.jpg", "val/flower/1.png")]
    assert (tmp_path / "less" / "damaged.txt").read_text().splitlines() == named


def test_corrupt_records_are_skipped_like_corrupt_images(folder, tmp_path, settings):
    run(folder, tmp_path)
    settings.source, settings.dir, settings.damaged = "records", str(tmp_path), "skip"
    shard = tmp_path / "test-00000-of-00002.array_record"
    whole = shard.read_bytes()
    middle_of_an_image = whole.index(b"\xff\xd8") + 300
    shard.write_bytes(whole[:middle_of_an_image] + b"flipped" + whole[middle_of_an_image + 7 :])
    change = partial(classification.change, settings)
    (batch,) = pipeline.eval_batches(pipeline.open_source(settings, "test"), settings, change, 6)
    assert sorted(batch["mask"].tolist()) == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"\xfc", r"\xfc"), (b"a\r\nb", r"a\x0d\x0ab"), (b"\x1b[31m", r"\x1b[31m"), (b"a\\x0ab", r"a\\x0ab"),
        ("\u00fc \u2603".encode(), "\u00fc \u2603"), ("\u2028\x85".encode(), r"\xe2\x80\xa8\xc2\x85"),
    ],
)  # fmt: skip
def test_names_of_any_bytes_are_packed(tmp_path, settings, name, escaped):
    """A class, an image and a corrupt image each; the names of classes are the same in the shards as in the folder."""
    folder = write_folder(tmp_path / "folder", train=1, test=1)
    name = os.fsdecode(name)
    for split in ("train", "val"):
        place = (folder / split / "china").rename(folder / split / name)
        (place / "0000.JPEG").rename(place / f"{name}.jpg")
        (place / f"{name}.png").write_text("no image")
    assert run(folder, tmp_path / "out", skip_damaged=True).startswith("3 training and 3 test images")
    listed = [f"{folder}/{split}/{escaped}/{escaped}.png\n" for split in ("train", "val")]
    assert (tmp_path / "out" / "damaged.txt").read_bytes().decode() == "".join(listed)
    (tmp_path / "out" / "dataset.json").read_bytes().decode()
    classes = []
    for settings.source, settings.dir in (("folder", str(folder)), ("records", str(tmp_path / "out"))):
        classes.append(pipeline.open_source(settings, "train").classes)
    assert classes[0] == classes[1] == sorted(["flower", "hopper", name])


def test_corrupt_shards_are_named(folder, tmp_path, settings):
    run(folder, tmp_path)
    settings.source, settings.dir = "records", str(tmp_path)
    shard = tmp_path / "train-00001-of-00003.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a train shard in .* is corrupt .*; empty the folder, and fill it again"):
        pipeline.open_source(settings, "train")
    middle_of_an_image = whole.index(b"\xff\xd8") + 300
    shard.write_bytes(whole[:middle_of_an_image] + b"flipped" + whole[middle_of_an_image + 7 :])
    with pytest.raises(UserError, match="is corrupt"):
        source = pipeline.open_source(settings, "train")
        [source[i] for i in range(len(source))]


def test_a_full_disk_is_named(folder, tmp_path):
    program = """
import resource, sys
from acmix_jax.data import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
prepare.main()
"""
    command = [sys.executable, "-c", program, f"--folder={folder}", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot write {tmp_path}")
    assert "Traceback" not in done.stderr


def test_mistakes_are_named(tmp_path, settings, folder):
    settings.source, settings.dir = "records", str(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*dataset.json .*acmix_jax.data.prepare"):
        pipeline.open_source(settings, "train")
    (tmp_path / "dataset.json").write_text('{"labels": [["1.png", 5]]}')
    with pytest.raises(
        UserError, match=r"cannot read .*dataset.json \(it is corrupt or of another program, 'splits'\)"
    ):
        pipeline.open_source(settings, "train")
    settings.source = "folder"
    with pytest.raises(
        UserError, match=r"no folder .*/train; set --config.data.dir .* to one that holds train/CLASS/ and val/CLASS/"
    ):
        pipeline.open_source(settings, "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no images in .*/train; it needs a folder for each class"):
        pipeline.open_source(settings, "train")
    (tmp_path / "val" / "cta").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"unknown class folder cta in .*/val, not among the 1 of train/; did you mean cat\?"
    ):
        pipeline.open_source(settings, "test")
    run(folder, tmp_path / "out")
    (tmp_path / "out" / "train-00001-of-00003.array_record").unlink()
    settings.source, settings.dir = "records", str(tmp_path / "out")
    with pytest.raises(UserError, match=r"1 files such as train-00001-of-00003.array_record are missing"):
        pipeline.open_source(settings, "train")
