"""Composing photographs, of stamps that are made here."""

import json

import numpy as np
import pytest
from PIL import Image

from acmix_jax.data import photos, stamps
from acmix_jax.data.label_maps import LabelMapSource
from acmix_jax.errors import UserError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Six stamps of each class: noise inside an ellipse; its red is the number of the stamp, its green the class."""
    root, rng = tmp_path_factory.mktemp("stamps"), np.random.default_rng(0)
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    for number, folders in enumerate(stamps.FOLDERS.values()):
        for i in range(6):
            pixels = rng.integers(0, 256, (60, 80, 4), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1], pixels[..., 3] = 40 * i, 20 * number, 255 * (x**2 + y**2 < 0.9)
            save(pixels, root / folders[0] / f"{i}.png")
    return root


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def written(directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "scenes"
    stamps.write(out, directory, train=4, test=3, seed=0)
    return out


def test_every_fifth_stamp_of_a_class_is_for_the_test(directory):
    found = stamps.read_stamps(directory)
    numbers = {
        split: {int(np.asarray(stamp)[30, 30, 0]) // 40 for of_class in classes for stamp in of_class}
        for split, classes in found.items()
    }
    assert numbers == {"train": {0, 1, 3, 4, 5}, "test": {2}}
    assert [len(classes) for classes in found.values()] == [10, 10]


def test_stamps_lose_their_margins_and_are_reduced(tmp_path):
    pixels = np.zeros((500, 400, 4), np.uint8)
    pixels[100:400, 50:250] = np.random.default_rng(0).integers(0, 256, (300, 200, 4))
    pixels[100:400, 50:250, 3] = 255
    for folders in stamps.FOLDERS.values():
        for i in range(5):
            save(pixels[::5, ::5] if i else pixels, tmp_path / folders[0] / f"{i}.png")
    found = stamps.read_stamps(tmp_path)
    assert {stamp.size for of_class in found["train"] for stamp in of_class} == {(128, 192), (40, 60)}


def test_drawings_silhouettes_and_mirrored_copies_are_left_out(tmp_path):
    noise = np.random.default_rng(0).integers(128, 256, (40, 40, 4), dtype=np.uint8)
    for folders in stamps.FOLDERS.values():
        for i in range(5):
            save(noise, tmp_path / folders[0] / f"{i}.png")
    birds = tmp_path / "animals/birds"
    save(noise, birds / "cartoon" / "tux.png")
    save(noise, birds / "0_mirror.png")
    save(np.full((40, 40, 4), 255, np.uint8), birds / "white.png")
    assert sum(len(classes[0]) for classes in stamps.read_stamps(tmp_path).values()) == 5


def test_missing_stamps_are_explained(tmp_path):
    with pytest.raises(UserError, match="^0 stamps of class bird in .*; on Debian, apt-get install tuxpaint-st"):
        stamps.write(tmp_path / "out", tmp_path, 1, 1, 0)
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_a_source_of_label_maps(written):
    for split, count in (("train", 4), ("test", 3)):
        source = LabelMapSource(str(written), split)
        assert len(source) == count
        assert source.classes == ["background", *stamps.FOLDERS]
        assert source.colors[0].tolist() == [0, 0, 0] and len(np.unique(source.colors, axis=0)) == 11
        for index in range(count):
            labels = photos.decode_labels(source[index]["label_map"])
            assert labels.shape == source.size_of(index) in {(128, 192), (192, 128)}
            assert labels.max() <= 10 and (labels > 0).mean() > 0.05


def test_labels_are_those_of_what_is_drawn(directory):
    scene = stamps.compose_scene(stamps.read_stamps(directory)["train"], "train", np.random.default_rng(3))
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        assert np.median(scene.image[mask][:, 1]) == pytest.approx(20 * (label - 1), abs=2)


def decoded(segmentation):
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(values, segmentation["counts"]).reshape(width, height).T


def test_instances_are_those_of_coco(written):
    source = LabelMapSource(str(written), "train")
    contents = json.loads((written / "annotations" / "instances_training.json").read_text())
    assert [category["name"] for category in contents["categories"]] == list(stamps.FOLDERS)
    assert [image["file_name"] for image in contents["images"]] == [f"{i:05d}.jpg" for i in range(4)]
    for image in contents["images"]:
        own = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
        label_map = photos.decode_labels(source[image["id"] - 1]["label_map"])
        assert label_map.shape == (image["height"], image["width"])
        drawn = np.zeros_like(label_map)
        for annotation in own:
            mask = decoded(annotation["segmentation"])
            left, top, width, height = map(int, annotation["bbox"])
            assert mask.sum() == annotation["area"] == mask[top : top + height, left : left + width].sum()
            drawn[mask] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, label_map)
    assert len({a["id"] for a in contents["annotations"]}) == len(contents["annotations"])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([[0, 1], [1, 1]], [1, 3]), ([[1, 0], [0, 0]], [0, 1, 3]), ([[0, 0], [0, 0]], [4]), ([[1, 1], [1, 1]], [0, 4])],
)
def test_run_lengths(mask, expected):
    assert stamps.run_lengths(np.array(mask, bool)) == expected


def test_scenes_follow_the_seed(written, directory, tmp_path):
    contents = {}
    for seed in (0, 1):
        out = tmp_path / str(seed)
        stamps.write(out, directory, train=2, test=1, seed=seed)
        contents[seed] = [(out / "images/training" / name).read_bytes() for name in ("00000.jpg", "00001.jpg")]
    assert contents[0] == [(written / "images/training" / name).read_bytes() for name in ("00000.jpg", "00001.jpg")]
    assert contents[0] != contents[1]


def test_a_folder_with_files_stays_as_it_is(written, directory):
    before = sorted(written.rglob("*"))
    with pytest.raises(UserError, match="is there already; choose another --out, or remove it"):
        stamps.write(written, directory, 1, 1, 0)
    assert sorted(written.rglob("*")) == before


def test_what_is_interrupted_leaves_nothing(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "_classes_csv", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stamps.write(tmp_path / "out", directory, 1, 1, 0)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(directory, tmp_path, monkeypatch, capsys):
    arguments = [f"--out={tmp_path / 'out'}", f"--stamps={directory}", "--train=1", "--test=1"]
    monkeypatch.setattr("sys.argv", ["stamps", *arguments])
    stamps.main()
    said = capsys.readouterr()
    assert said.out == f"1 training and 1 test scenes are in {tmp_path / 'out'}; set --config.data.dir to it\n"
    assert said.err == ""


def test_the_command_refuses_no_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["stamps", f"--out={tmp_path / 'out'}", "--train=0"])
    with pytest.raises(SystemExit, match="^error: --train and --test must be at least 1, and --seed at least 0$"):
        stamps.main()
