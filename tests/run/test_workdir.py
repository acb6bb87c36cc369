"""The names of a run's classes, recorded in its workdir and compared with those of the data."""

import json

import pytest

from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.training.evaluate import evaluate_checkpoint
from acmix_jax.training.setup import set_up
from tests.data.test_folder import touch


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("ant bee cat", "bee cat wasp", "label 0 was ant and is bee (gone: ant; new: wasp)"),
        ("ant bee cat", "ant ape bee cat", "label 1, after ant, was bee and is ape (new: ape)"),
        ("ant bee cat", "ant bee", "label 2, after bee, was cat and is no class (gone: cat)"),
        ("ant bee", "ant bee cat", "label 2, after bee, was no class and is cat (new: cat)"),
        ("ant bee cat", "ant cat bee", "label 1, after ant, was bee and is cat (the order changed)"),
        ("ant Bee", "ant bee", "label 1, after ant, was Bee and is bee (gone: Bee; new: bee)"),
        ("a\u0308", "\u00e4", r"label 0 was 'a\u0308' and is '\xe4' (gone: a" + "\u0308; new: \u00e4)"),
        ("a\udce9", "b", r"label 0 was a\xe9 and is b (gone: a\xe9; new: b)"),
        ("ant bee", "ant bee", ""),
    ],
)
def test_the_first_difference_is_told(old, new, change):
    assert workdir.class_change(old.split(" "), new.split(" ")) == change


def test_names_that_are_not_known_are_no_difference():
    assert workdir.class_change(None, ["ant"]) == workdir.class_change(["ant"], None) == ""


def test_a_difference_among_many_is_short():
    change = workdir.class_change([f"n{i:05}" for i in range(20_000)], [f"m{i:05}" * 50 for i in range(20_000)])
    assert "gone: n00000, n00001, n00002 and 19,997 more;" in change
    assert len(change) < 500


def test_a_run_keeps_the_names_of_its_classes(config, tmp_path):
    names = ["a\u0308\n", "b\udce9", "c"]
    for given in (names, None):  # a data set without names takes no record away
        workdir.prepare(tmp_path, config, 10, {"devices": "1 x cpu"}, given)
        assert workdir.read_facts(tmp_path)["classes"] == names
    assert "classes" not in workdir.config_to_look_with(tmp_path, None)
    workdir.check_classes(tmp_path, names)
    workdir.check_classes(tmp_path, None)
    with pytest.raises(
        UserError, match=r"not those that '.*' was trained on: label 2, after .*, was c and is d .*; rest"
    ):
        workdir.check_classes(tmp_path, [*names[:2], "d"])


def test_a_run_without_a_record_gets_one(config, tmp_path):
    workdir.prepare(tmp_path, config, 10, {})
    assert "classes" not in json.loads((tmp_path / "config.json").read_text())
    workdir.check_classes(tmp_path, ["a", "b"])
    workdir.prepare(tmp_path, config, 10, {}, ["a", "b"])
    assert workdir.read_facts(tmp_path)["classes"] == ["a", "b"]


def test_a_number_of_classes_that_is_not_set_is_that_of_the_weights(config, tmp_path):
    workdir.prepare(tmp_path / "run", config, 10, {})
    workdir.write_facts(tmp_path, {"model": config.model, "num_classes": 7})
    config.data.num_classes = None
    for folder, number in ((tmp_path, 7), (tmp_path / "run", 10)):
        assert workdir.config_to_look_with(folder, config).data.num_classes == number
    config.data.num_classes = 8
    with pytest.raises(UserError, match="with 7 classes, but --config is of acmix_resnet14_stem1 with 8; set"):
        workdir.config_to_look_with(tmp_path, config)


@pytest.fixture
def folder_run(config, tmp_path):
    """Config and workdir of a run that was trained on folders ant and bee; it has no checkpoint."""
    for split in ("train", "val"):
        touch(*(tmp_path / "data" / split / name / "0.jpg" for name in ("ant", "bee")))
    config.data.update({"source": "folder", "dir": str(tmp_path / "data"), "image_size": 8, "num_classes": 2})
    workdir.prepare(tmp_path / "run", config, 2, {}, ["ant", "bee"])
    return config, tmp_path / "run"


@pytest.mark.parametrize("added", ["ape", "wasp"])
def test_other_folders_are_refused_before_anything_else(folder_run, tmp_path, added):
    """Although there are more classes than outputs, and no checkpoint."""
    config, run = folder_run
    touch(tmp_path / "data" / "train" / added / "0.jpg")
    for begin in (lambda: set_up(config, resumed=run), lambda: evaluate_checkpoint(config, run, "latest")):
        with pytest.raises(UserError, match=rf"label \d, after \w+, was .* and is {added} \(new: {added}\)"):
            begin()


def test_the_same_folders_are_taken(folder_run):
    config, run = folder_run
    with pytest.raises(UserError, match="0.jpg is corrupt"):  # it gets as far as its first image
        set_up(config, resumed=run)
    with pytest.raises(UserError, match="checkpoint"):
        evaluate_checkpoint(config, run, "latest")
