import csv
import subprocess
import sys

import pytest

from experiments import network_speed, operator_speed


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    module.main()


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


def test_mistakes_end_with_one_line(tmp_path, monkeypatch):
    for module, argument, message in (
        (operator_speed, "--layers=resnet 512@7,resnet 63@56", "did you mean resnet 64@56"),
        (network_speed, "--networks=resnet26,resnet51", "did you mean resnet50"),
        (network_speed, "--networks=acmix_resnet26", "unknown plain network 'acmix_resnet26'; did you mean resnet26"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, module, f"--out={tmp_path}", argument)
    assert not list(tmp_path.iterdir())  # found before anything is measured


def test_a_bare_machine_can_measure():
    """One with jax, flax and numpy alone."""
    code = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\n"
    code += "import experiments.network_speed, experiments.operator_speed"
    absent = "ml_collections,grain,orbax,orbax.checkpoint,clu,tensorflow_datasets,sklearn,matplotlib"
    subprocess.run([sys.executable, "-c", code, absent], check=True, timeout=120)
