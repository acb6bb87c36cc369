import csv
import json
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from acmix_jax.benchmark import timing
from acmix_jax.benchmark.timing import Row
from experiments import input_speed, kernel_times, network_speed, operator_speed


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    module.main()


def fake_rows(name, *passes):
    for implementation in ("acmix", "plain", "acmix_jax"):
        for i, way in enumerate(passes, 1):
            yield Row(name, 8, 4, "float32", 1234.5678, i, None, 0.5, None, way, implementation, 1.0, 2.0, 1.5, "cpu")


@pytest.mark.parametrize(
    ("module", "argument", "name", "passes"),
    [
        (operator_speed, "--layers=resnet 64@56,resnet 512@7", "operator_speed", ("forward", "forward+backward")),
        (network_speed, "--networks=resnet26,san10", "network_speed", ("forward", "folded forward", "train")),
    ],
)
def test_a_table_and_a_record_are_written(tmp_path, monkeypatch, module, argument, name, passes):
    monkeypatch.setattr(module, "measure", lambda what, _: fake_rows(str(what), *passes))
    run(monkeypatch, module, f"--out={tmp_path}", argument)
    rows = list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["model"] for row in rows)) == argument.partition("=")[2].split(",")
    assert (rows[0]["samples_per_sec"], rows[0]["gmacs"], rows[0]["pass"]) == ("1235", "", "forward")
    assert json.loads((tmp_path / "record.json").read_text())["origin"] == "measured here"


def test_the_table_of_the_input_has_median_and_range(tmp_path, monkeypatch):
    monkeypatch.setattr(input_speed, "measure", lambda _: {"acmix_jax, 1 core": [800.4, 700.0, 900.0]})
    run(monkeypatch, input_speed, f"--out={tmp_path}")
    assert (tmp_path / "input_speed.csv").read_text() == (
        'pipeline,images_per_sec,lowest,highest\n"acmix_jax, 1 core",800,700,900\n'
    )
    assert (tmp_path / "record.json").exists()


@pytest.mark.slow
def test_the_input_is_timed(tmp_path, monkeypatch):
    run(monkeypatch, input_speed, f"--out={tmp_path}", "--rounds=1", "--seconds=0.1")
    rows = list(csv.DictReader((tmp_path / "input_speed.csv").read_text().splitlines()))
    assert all(int(row["images_per_sec"]) > 0 for row in rows)
    assert [row["pipeline"] for row in rows] == ["acmix_jax, 1 core", "acmix_jax, 2 cores"]


@pytest.mark.parametrize("name", ["resnet 128@56 s2", "swin 96@56", "pvt 64@56", "san 16@112"])
def test_each_form_of_a_layer_gives_the_same_shape(name):
    (layer,) = (layer for layer in operator_speed.LAYERS if str(layer) == name)
    x = jax.ShapeDtypeStruct((1, layer.size, layer.size, layer.in_features), "float32")
    shapes = {
        form: jax.eval_shape(module.init_with_output, jax.random.key(0), x)[0].shape
        for form, module in operator_speed.forms(layer).items()
    }
    side = layer.size // layer.fields.get("stride", 1)
    assert shapes == dict.fromkeys(shapes, (1, side, side, layer.features))


@pytest.mark.slow
def test_a_layer_is_timed(tmp_path, monkeypatch, capsys):
    run(monkeypatch, operator_speed, f"--out={tmp_path}", "--layers=resnet 512@7", "--batch=1", "--rounds=1")
    rows = list(csv.DictReader((tmp_path / "operator_speed.csv").read_text().splitlines()))
    assert {"acmix", "plain", "attention tiled", "convolution dense"} <= {row["implementation"] for row in rows}
    assert all(float(row["step_time_ms"]) > 0 for row in rows)
    assert "released                    not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_whole_networks_are_timed(tmp_path, monkeypatch, capsys):
    run(
        monkeypatch, network_speed, f"--out={tmp_path}", "--networks=resnet14_stem1", "--img-size=16", "--batch=2",
        "--rounds=2",
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "network_speed.csv").read_text().splitlines()))
    assert [(row["model"], row["pass"]) for row in rows] == [
        (name, way)
        for name in ("resnet14_stem1", "acmix_resnet14_stem1")
        for way in ("forward", "folded forward", "train")
    ]
    assert all(float(row["step_time_ms"]) > 0 and float(row["peak_memory_mb"]) > 0 for row in rows)
    assert "released: not measured" in capsys.readouterr().out


def test_forms_of_attention_are_compared_with_the_definition_and_timed(tmp_path, monkeypatch, capsys):
    run(monkeypatch, kernel_times, f"--out={tmp_path}", "--layers=512@7", "--forms=tiled", "--batch=1", "--rounds=1")
    rows = list(csv.DictReader((tmp_path / "kernel_times.csv").read_text().splitlines()))
    assert [(row["form"], row["pass"]) for row in rows] == [("tiled", "forward"), ("tiled", "forward+backward")]
    assert all(float(row["ms"]) > 0 and float(row["error"]) < 1e-6 for row in rows)
    assert (tmp_path / "kernel_times.png").exists()
    assert (tmp_path / "record.json").exists()
    assert "512@7      tiled      forward+backward" in capsys.readouterr().out


def test_an_error_is_that_of_the_worst_array():
    reference = timing.Program(lambda: (np.ones(4), np.full(4, 2.0)))
    found = timing.Program(lambda: (np.ones(4), np.array([2.0, 2.0, 2.0, 2.2])))
    assert kernel_times.error(found, reference) == pytest.approx(0.05)
    broken = timing.Program(lambda: (np.ones(4), np.full(4, np.nan)))
    assert np.isnan(kernel_times.error(broken, reference))


def test_programs_are_compiled_by_their_names():
    compiled = timing.compile_all({name: partial(timing.Program, lambda: None, compile_s=name) for name in (1, 2, 3)})
    assert {name: program.compile_s for name, program in compiled.items()} == {1: 1, 2: 2, 3: 3}


def test_mistakes_end_with_one_line(tmp_path, monkeypatch):
    for module, argument, message in (
        (operator_speed, "--layers=resnet 512@7,resnet 63@56", "did you mean resnet 64@56"),
        (network_speed, "--networks=resnet26,resnet51", "did you mean resnet50"),
        (network_speed, "--attention-forms=tiles", "unknown form of attention 'tiles'; did you mean tiled"),
        (operator_speed, "--forms=acmixx", "unknown form 'acmixx'; did you mean acmix"),
        (kernel_times, "--layers=512@8", "unknown layer '512@8'; did you mean 512@7"),
        (kernel_times, "--forms=reference", "unknown form of attention 'reference'"),
        (network_speed, "--networks=acmix_resnet26", "unknown plain network 'acmix_resnet26'; did you mean resnet26"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, module, f"--out={tmp_path}", argument)
    assert not list(tmp_path.iterdir())  # found before anything is measured


def test_a_bare_machine_can_measure():
    """One with the base dependencies alone."""
    code = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\n"
    code += "import experiments.network_speed, experiments.operator_speed"
    absent = "ml_collections,grain,orbax,orbax.checkpoint,clu,tensorflow_datasets,sklearn,matplotlib"
    subprocess.run([sys.executable, "-c", code, absent], check=True, timeout=120)
