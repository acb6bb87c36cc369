import csv
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import acmix_jax
from acmix_jax.analysis.path_norms import PathNorms
from acmix_jax.convert.state_dict import variable_shapes
from acmix_jax.run.checkpoint import Checkpoints
from configs import digits
from experiments import figure5_path_bias as path_bias


def make_run(folder, name, seed=0, source="digits", variables=None):
    """A workdir with a checkpoint in which the layers' alpha is seed, seed + 1, seed + 2, ... and beta 10."""
    variables = variables or jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes(name, 10))
    for i, layer in enumerate(sorted(name for name in variables["params"]["backbone"] if "block" in name)):
        mixer = variables["params"]["backbone"][layer]["mixer"]
        if "alpha" in mixer:
            mixer["alpha"], mixer["beta"] = np.float32(seed + i), np.float32(10)
    config = digits.get_config()
    config.model, config.seed, config.data.source = name, seed, source
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(7, variables)
    return str(folder)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["figure5_path_bias.py", *arguments])
    path_bias.main()


def rows(out):
    return list(csv.DictReader((out / "path_bias.csv").read_text().splitlines()))


def test_a_table_and_a_picture_of_several_runs(tmp_path, monkeypatch, capsys):
    """Without their data: photographs in a folder that is not there."""
    names = ["acmix_swin_micro_patch2", "acmix_resnet14_stem1"]
    runs = [make_run(tmp_path / name, name, source="folder") for name in names]
    run(monkeypatch, *runs, f"--out={tmp_path / 'out'}")
    found = rows(tmp_path / "out")
    assert [row["model"] for row in found] == [f"{names[0]} on folder"] * 6 + [f"{names[1]} on folder"] * 4
    assert [float(row["alpha"]) for row in found] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert {(row["step"], float(row["beta"]), row["log_attention_over_convolution"]) for row in found} == {
        ("7", 10, "")
    }
    assert (tmp_path / "out" / "path_bias.png").stat().st_size > 10_000
    assert not (tmp_path / "out" / "path_maps.png").exists()
    assert "share of each path is not measured" in capsys.readouterr().err


@pytest.fixture(scope="module")
def network():
    name = "acmix_resnet14_stem1"
    rng = np.random.default_rng(0)
    model = acmix_jax.create_model(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32"))
    return name, jax.tree.map(lambda x: np.abs(rng.normal(size=x.shape)).astype(x.dtype), shapes)


@pytest.fixture
def fake_norms(monkeypatch):
    """Norms as if the outputs of both paths had a norm of 1 everywhere before they are weighted."""

    def path_norms(model, variables, images):
        assert images.shape[1:] == (8, 8, 1)
        mixers = {name: block["mixer"] for name, block in variables["params"]["backbone"].items() if "mixer" in block}
        ones = np.ones(images.shape[:3], np.float32)
        return {name: PathNorms(x["alpha"] * ones, x["beta"] * ones) for name, x in mixers.items() if "alpha" in x}

    monkeypatch.setattr(path_bias, "path_norms", path_norms)


@pytest.mark.parametrize("norms", ["fake_norms", pytest.param("tmp_path", marks=pytest.mark.slow, id="measured")])
def test_the_share_of_the_paths_is_measured_on_the_data(norms, tmp_path, monkeypatch, network, request):
    request.getfixturevalue(norms)
    name, variables = network
    runs = [make_run(tmp_path / f"seed{seed}", name, seed, variables=variables) for seed in (1, 2)]
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(tmp_path / "photo.png")
    run(monkeypatch, *runs, f"--out={tmp_path / 'out'}", "--images=3", f"--photo={tmp_path / 'photo.png'}")
    one, two = (float(row["log_attention_over_convolution"]) for row in rows(tmp_path / "out")[::4])
    assert two - one == pytest.approx(np.log(2), abs=1e-4)  # alpha of the first layer is 1 and 2
    assert (tmp_path / "out" / "path_maps.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "out" / "record.json").read_text())["seeds"] == ["1", "2"]


def test_runs_that_differ_in_their_seed_are_a_group(tmp_path, network, fake_norms):
    name, variables = network
    one, other = (
        path_bias.read(tmp_path / folder.name, 2, None)
        for folder in (tmp_path / "one", tmp_path / "other")
        if make_run(folder, name, seed=len(folder.name), variables=variables)
    )
    assert one.group == other.group
    assert one.seed != other.seed
    assert one.photo.shape == (8, 8, 1)


def test_weights_without_a_config_are_a_group_each(tmp_path, network):
    for folder in (tmp_path / "one", tmp_path / "other"):
        make_run(folder, network[0], variables=network[1])
        (folder / "config.json").unlink()
        (folder / "weights.json").write_text(json.dumps({"model": network[0], "num_classes": 10}))
    assert len({str(path_bias.read(tmp_path / name, 2, None).group) for name in ("one", "other")}) == 2


def test_mistakes_end_with_one_line(tmp_path, monkeypatch, network):
    plain = make_run(tmp_path / "plain", "swin_micro_patch2")
    good = make_run(tmp_path / "good", network[0], variables=network[1])
    for arguments, message in (
        ([plain], "swin_micro_patch2, which has no ACmix layer"),
        ([str(tmp_path)], "neither a run nor"),
        ([good, "--images=0"], "--images=0 measures nothing"),
        ([good, "--photo=absent.jpg"], "absent.jpg"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, *arguments, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
