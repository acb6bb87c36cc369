"""Folders as people have them: what counts as a class and as an image, and what is said of the rest."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from acmix_jax.data import listing
from acmix_jax.data.folder import FolderSource
from acmix_jax.data.photos import CorruptImage
from acmix_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Classes cat and dog with one empty file each, in train/ and in val/."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            touch(tmp_path / split / name / "0.jpg")
    return tmp_path


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def open_folder(root, split="train"):
    """Pairs of path and label."""
    source = FolderSource(str(root), split)
    return [(name, int(source[index]["label"])) for index, name in enumerate(source.names())]


TWO = [("cat/0.jpg", 0), ("dog/0.jpg", 1)]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    "name", [".cache", ".Trash-1000", "@tmp", "#recycle", "lost+found", "$RECYCLE.BIN", "__macosx"]
)
def test_folders_of_systems_are_no_classes(root, name, split, capsys):
    touch(root / split / name / "1.jpg")
    for opened in ("train", "test"):
        assert open_folder(root, opened) == TWO
    said = capsys.readouterr().err
    reason = "hidden" if name[0] == "." else "left by a system"
    assert said == f"warning: left out of {root / split}: 1 {reason}, such as {name}\n"


def test_folders_of_systems_are_not_entered_at_any_depth(root, capsys):
    touch(root / "train/cat/.thumbs/1.jpg", root / "train/cat/a/@eaDir/1.jpg/s.jpg", root / "train/cat/._0.jpg")
    assert open_folder(root) == TWO
    said = capsys.readouterr().err
    assert "2 hidden, such as cat/" in said
    assert "1 left by a system, such as cat/a/@eaDir" in said


@pytest.mark.parametrize("name", ["recycler", "Temporary Items", "snapshot", "trash", "System", "cache", "#1", "@home"])
def test_names_that_a_class_may_have_are_classes(root, name, capsys):
    touch(root / "train" / name / "1.jpg")
    assert f"{name}/1.jpg" in dict(open_folder(root))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["1.PNG", "1.JpE", "1.pbm", "1.ico", "1.dds", "1.pcx", "a.b.sgi", "x.txt.gif", "1.xbm"]
)
def test_what_pillow_reads_counts_in_any_case(root, name, capsys):
    touch(root / "train/dog" / name)
    assert len(open_folder(root)) == 3
    assert capsys.readouterr().err == ""


def test_formats_that_pillow_only_writes_do_not_count():
    Image.init()
    assert {".pdf", ".palm"} & set(Image.registered_extensions())
    assert not {".pdf", ".palm"} & listing.image_suffixes()


@pytest.mark.parametrize(
    "name", ["features.h5", "a.HDF", "clip.mpg", "clip.mpeg", "a.wmf", "a.emf", "a.eps", "a.ps", "a.grib", "a.bufr"]
)
def test_formats_that_pillow_only_identifies_do_not_count(root, name, capsys):
    touch(root / "train/dog" / name)
    assert open_folder(root) == TWO
    assert f"(1 {Path(name).suffix.lower()}), such as dog/{name}" in capsys.readouterr().err


def test_each_suffix_that_counts_is_of_a_format_with_pixels():
    formats = {Image.registered_extensions()[suffix] for suffix in listing.image_suffixes()}
    stubs = {
        kind
        for kind, (reader, _) in Image.OPEN.items()
        if isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
    }
    assert len(formats) > 30
    assert not formats & stubs


def test_other_files_are_counted_by_suffix(root, capsys):
    names = ("a.TXT", "b.txt", "c.csv", "README", "d.jpg.part", "folder.old/e")
    touch(*(root / "train/cat" / name for name in names))
    assert open_folder(root) == TWO
    said = capsys.readouterr().err
    assert "6 without a suffix that Pillow reads (2 .txt, 2 none, 1 .csv, 1 .part), such as cat/" in said


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "a.heif", "b.dng", "c.jxl", "d.svg", "e.mp4"])
def test_what_is_said_of_images_that_pillow_does_not_read_is_true(root, name, capsys):
    touch(root / "train/cat" / name)
    assert open_folder(root) == TWO
    said = capsys.readouterr().err
    assert f"1 without a suffix that Pillow reads (1 {Path(name).suffix.lower()}), such as cat/{name}" in said


def test_many_suffixes_are_not_all_listed(root, capsys):
    touch(*(root / "train/cat" / f"image.{i:04}" for i in range(1000)))
    open_folder(root)
    said = capsys.readouterr().err
    assert "1,000 without a suffix that Pillow reads" in said
    assert "and 995 more" in said
    assert len(said) < 300 + len(str(root))


def test_images_beside_the_classes_are_said(root, capsys):
    touch(root / "train/1.jpg")
    assert open_folder(root) == TWO
    assert "1 outside of the class folders, such as 1.jpg" in capsys.readouterr().err


def test_images_at_any_depth_belong_to_their_class(root):
    touch(root / "train/cat/z/y/1.jpg", root / "train/cat/a/2.jpg", root / "train/dog/images.png/3.jpg")
    names = ["cat/0.jpg", "cat/a/2.jpg", "cat/z/y/1.jpg", "dog/0.jpg", "dog/images.png/3.jpg"]
    assert open_folder(root) == [(name, int(name.startswith("dog"))) for name in names]


def test_empty_classes_are_refused_by_name(root):
    (root / "train/bird/deep").mkdir(parents=True)
    touch(root / "train/fish/notes.txt")
    with pytest.raises(UserError, match=r"no images in 2 class folders of .*/train: bird, fish; add some, or remove"):
        open_folder(root)
    touch(root / "val/bird/1.jpg")
    assert open_folder(root, "test") == [("bird/1.jpg", 0), ("cat/0.jpg", 1), ("dog/0.jpg", 2)]  # fish is behind them


def test_classes_that_nothing_measures_are_said(root, capsys):
    touch(*(root / f"train/{name}/1.jpg" for name in ("ant", "bee", "fish", "gnu")), root / "val/bee/notes.txt")
    (root / "val/ant").mkdir()
    assert open_folder(root, "test") == [("cat/0.jpg", 2), ("dog/0.jpg", 3)]
    said = capsys.readouterr().err
    why = f"4 of 6 classes have no images in {root}/val, so nothing measures them: ant, bee, fish and 1 more"
    assert f"warning: {why}\n" in said
    open_folder(root, "train")
    assert "measures" not in capsys.readouterr().err


@pytest.mark.parametrize("target", ["../../{split}", "../cat", "..", "../..", "/", "../dog", "loop"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_links_that_lead_back_do_no_harm(root, target, split, capsys):
    folder = root / ("train" if split == "train" else "val")
    (folder / "cat/loop").symlink_to(target.format(split=folder.name))
    assert open_folder(root, split) == TWO
    assert "1 linked back into these folders, such as cat/loop" in capsys.readouterr().err


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_a_class_does_not_hold_all_classes(root, target, capsys):
    (root / "train/loop").symlink_to(target)
    assert open_folder(root) == TWO
    assert open_folder(root, "test") == TWO
    assert "1 linked back into these folders, such as loop" in capsys.readouterr().err


def test_linked_folders_and_files_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere / "ant/1.jpg", elsewhere / "ant/more/2.jpg", elsewhere / "x")
    (elsewhere / "ant/more/round").symlink_to(elsewhere)
    (elsewhere / "ant/more/self").symlink_to(elsewhere / "ant")
    (root / "train/ant").symlink_to(elsewhere / "ant")
    (root / "train/bee").symlink_to("cat")  # its images count twice
    (root / "train/dog/1.jpg").symlink_to(elsewhere / "x")
    assert open_folder(root) == [
        ("ant/1.jpg", 0), ("ant/more/2.jpg", 0), ("bee/0.jpg", 1), ("cat/0.jpg", 2), ("dog/0.jpg", 3), ("dog/1.jpg", 3)
    ]  # fmt: skip


def test_two_linked_folders_that_link_to_each_other_end(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for one, other in (("p", "q"), ("q", "p")):
        touch(elsewhere / one / "1.jpg")
        (elsewhere / one / "other").symlink_to(elsewhere / other)
    (root / "train/cat/p").symlink_to(elsewhere / "p")
    assert [name for name, _ in open_folder(root)] == ["cat/0.jpg", "cat/p/1.jpg", "cat/p/other/1.jpg", "dog/0.jpg"]


def test_a_class_whose_link_is_broken_is_named(root):
    """Without it, the labels of the classes behind it would change."""
    (root / "train/ant").symlink_to("/nowhere/ant")
    with pytest.raises(
        UserError, match=r"cannot list the folder .*/train/ant \(it is a link that leads nowhere\); make"
    ):
        open_folder(root)


def test_pipes_and_sockets_are_left_out_unopened(root, capsys, monkeypatch):
    monkeypatch.chdir(root / "train/cat")  # a socket's path is short
    os.mkfifo("1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("2.jpg")
        Path("3.jpg").symlink_to("1.jpg")
        Path("4.jpg").symlink_to("/dev/zero")
        assert open_folder(root) == TWO
    assert "4 neither file nor folder, such as cat/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "reason"),
    [("gone.jpg", "it is a link that leads nowhere"), ("1.jpg", "Too many levels of symbolic links")],
)
def test_a_broken_link_is_a_corrupt_image(root, target, reason):
    (root / "train/cat/1.jpg").symlink_to(target)
    source = FolderSource(str(root), "train")
    assert source.names() == ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg"]
    with pytest.raises(CorruptImage, match=rf"^image {root}/train/cat/1.jpg cannot be read \({reason}\)$"):
        source[1]


def test_what_may_not_be_read_is_named(root, monkeypatch):
    """Permissions do not stop the tests' user where that is root."""
    source = FolderSource(str(root), "train")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorruptImage, match=r"cat/0.jpg cannot be read \(Permission denied\)"):
        source[0]
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        UserError, match=r"cannot list the folder .*/train \(Permission denied\); make it readable, or remove it"
    ):
        FolderSource(str(root), "train")


@pytest.mark.parametrize("name", ["dgo", "images", "n" * 200, "a\nb"])
def test_an_unknown_class_among_many_has_a_short_message(tmp_path, name):
    touch(*(tmp_path / "train" / f"{i:04}{'x' * 200}" / "0.jpg" for i in range(300)), tmp_path / "train/dog/0.jpg")
    touch(tmp_path / "val" / name / "0.jpg", tmp_path / "val/zzz/0.jpg")
    with pytest.raises(
        UserError, match=r"unknown class folder .* and 1 more in .*, not among the 301 of train/; "
    ) as error:
        FolderSource(str(tmp_path), "test")
    assert len(str(error.value)) < 500 + len(str(tmp_path))
    assert "\n" not in str(error.value)
    if name == "dgo":
        assert "did you mean dog?" in str(error.value)


def test_many_classes_need_no_search(tmp_path, monkeypatch):
    """The names are compared as often as a sorting does, not once for each pair of classes."""

    class Counted(str):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Counted(f"n{i:05}") for i in range(2000)]
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    monkeypatch.setattr("acmix_jax.data.folder.class_folders", lambda root, left_out: list(names))
    monkeypatch.setattr("acmix_jax.data.folder.images_in", lambda root, name, left_out: [f"{name}/0.jpg"])
    for split in ("train", "test"):
        assert len(FolderSource(str(tmp_path), split)) == 2000
    assert Counted.compared < 20_000
