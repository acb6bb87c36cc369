import csv
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from acmix_jax.analysis import top_classes
from acmix_jax.data import augment
from acmix_jax.data.photos import Photo
from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.tasks import create_task
from acmix_jax.training.predict import predict_images
from acmix_jax.weights.stored import fold_checkpoint
from configs import digits
from tests.networks import draw, random_variables

NAMES = [f"digit {number}" for number in range(10)]
FILES = ["b.png", "a.png", "in/c.bmp", "in/here/d.png", "in/here/e.PNG", "z.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with drawn weights, its config and variables."""
    folder, config = tmp_path_factory.mktemp("run"), digits.get_config()
    config.batch_size, config.model = 4, "resnet14_stem1"
    shapes = jax.eval_shape(create_task(config).init, jax.random.key(0), {"image": np.zeros((1, 8, 8, 1), np.uint8)})
    variables = draw(shapes)
    workdir.prepare(folder, config, 1437, {}, NAMES)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(7, variables)
    return config, folder, variables


@pytest.fixture
def images(tmp_path):
    """Six grey pictures of two sizes, in folders, beside what is none."""
    folder = tmp_path / "images"
    (folder / "in" / "here").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in FILES:
        size = 12 if name == "in/c.bmp" else 8
        Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(folder / name)
    (folder / "notes.txt").touch()
    return folder


def rows_of(out):
    return list(csv.DictReader((out / "predictions.csv").read_text("utf-8").splitlines()))


def test_each_image_gets_its_best_classes_by_name(run, images, tmp_path):
    config, folder, variables = run
    summary = predict_images(config, folder, "latest", images, tmp_path / "out")
    assert summary.startswith("resnet14_stem1 at step 7: 6 images predicted\n")
    rows, task = rows_of(tmp_path / "out"), create_task(config)
    assert [row["image"] for row in rows] == sorted(FILES)
    for row in rows:
        photo = Photo((images / row["image"]).read_bytes(), "x", channels=1)
        pixels = task.change({"image": photo}, None)["image"]
        expected = np.asarray(jax.nn.softmax(task.predict(variables, {"image": pixels[None]})))[0]
        best = np.argsort(-expected)[:5]
        assert [row[f"class{rank}"] for rank in range(1, 6)] == [NAMES[label] for label in best]
        found = [float(row[f"probability{rank}"]) for rank in range(1, 6)]
        np.testing.assert_allclose(found, expected[best], atol=1e-4)
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 5000


def test_a_single_file_is_enough(run, images, tmp_path):
    predict_images(*run[:2], "7", images / "a.png", tmp_path / "out")
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["a.png"]


def test_what_is_left_out_is_said(run, images, tmp_path, capsys):
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:60])
    summary = predict_images(*run[:2], "latest", images, tmp_path / "out")
    assert "6 images predicted, 1 left out" in summary
    said = capsys.readouterr().err
    assert "1 without a suffix that Pillow reads (1 .txt)" in said
    assert "warning: image cut.png is corrupt" in said


def test_a_run_without_names_numbers_its_classes(run, images, tmp_path):
    config, folder, _ = run
    bare = tmp_path / "bare"
    bare.mkdir()
    os.symlink(folder / "checkpoints", bare / "checkpoints")
    workdir.prepare(bare, config, 1437, {})
    predict_images(config, bare, "latest", images / "a.png", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["class1"].startswith("class ")


def test_many_images_keep_few_pixels(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(top_classes, "SHOWN", 2)
    predict_images(*run[:2], "latest", images, tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 6


def test_folded_weights_classify_alike(run, images, tmp_path):
    config, folder, _ = run
    fold_checkpoint(folder, "latest", tmp_path / "folded")
    for weights in (folder, tmp_path / "folded"):
        predict_images(config, weights, "latest", images / "a.png", tmp_path / f"of_{weights.name}")
    of_run, of_folded = (rows_of(tmp_path / f"of_{name}") for name in (folder.name, "folded"))
    assert [row["class1"] for row in of_run] == [row["class1"] for row in of_folded]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "--images=.*absent is neither a file nor a folder; set it to"),
        ("empty", "no images in .*empty; set --images"),
    ],
)
def test_images_that_do_not_exist_are_told(run, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        predict_images(*run[:2], "latest", tmp_path / name, tmp_path / "out")


def test_images_of_which_none_can_be_read_are_an_error(run, tmp_path):
    Path(tmp_path / "a.png").write_text("x")
    with pytest.raises(UserError, match="none of the 1 images in .*a.png can be read; see the warnings"):
        predict_images(*run[:2], "latest", tmp_path / "a.png", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_told(run, images, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="cannot write to .*out.*; set another --out=DIR"):
        predict_images(*run[:2], "latest", images, tmp_path / "out")


def remake(run, folder, classes=None, **facts):
    """Another run with the weights of `run`."""
    folder.mkdir()
    os.symlink(run[1] / "checkpoints", folder / "checkpoints")
    workdir.prepare(folder, run[0], 1437, {}, classes, **facts)
    return folder


def test_an_image_is_resized_to_what_the_run_trained_on(run, images, tmp_path):
    folder = remake(run, tmp_path / "run", NAMES, image_size=[8, 8])
    predict_images(run[0], folder, "latest", images / "in" / "c.bmp", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    photo = Photo((images / "in" / "c.bmp").read_bytes(), "x", channels=1)  # 12x12 pixels
    pixels = augment.resize(photo, 8, "bilinear")
    expected = jax.nn.softmax(create_task(run[0]).predict(run[2], {"image": pixels[None]}))[0]
    assert row["class1"] == NAMES[int(np.argmax(expected))]
    np.testing.assert_allclose(float(row["probability1"]), np.max(expected), atol=1e-4)


def test_outputs_beyond_the_names_are_numbered(run, images, tmp_path):
    folder = remake(run, tmp_path / "run", NAMES[:2])
    predict_images(run[0], folder, "latest", images / "a.png", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    seen = {row[f"class{rank}"] for rank in range(1, 6)}
    assert seen <= {*NAMES[:2], *(f"class {label}" for label in range(2, 10))} and seen - {*NAMES[:2]}


def test_an_album_that_is_a_link_is_read(run, images, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday").symlink_to(images)
    predict_images(*run[:2], "latest", tmp_path / "pictures", tmp_path / "out")
    assert [row["image"] for row in rows_of(tmp_path / "out")] == sorted(f"holiday/{name}" for name in FILES)


def test_weights_that_do_not_fit_are_told_in_one_line(images, tmp_path):
    config = digits.get_config()
    config.model, config.acmix.window_size = "acmix_resnet14_stem1", 5
    config.data.num_classes = 9
    workdir.prepare(tmp_path / "run", config, 1437, {})
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save_variables(0, random_variables(config.model, num_classes=10, channels=1))
    with pytest.raises(UserError, match="the checkpoint in .* does not fit acmix_resnet14_stem1: "):
        predict_images(config, tmp_path / "run", "latest", images, tmp_path / "out")
