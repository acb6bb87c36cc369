import csv
import sys

import jax
import pytest

from experiments import table1_costs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command at smoke scale; returns the rows of both tables."""
    command = [f"--out={tmp_path}", "--models=acmix_resnet14_stem1", "--image-size=32", "--batch=1"]
    monkeypatch.setattr(table1_costs, "STAGES", table1_costs.STAGES[:1])

    def run():
        monkeypatch.setattr(sys, "argv", ["table1_costs.py", *command])
        table1_costs.main()
        tables = (tmp_path / name for name in ("operators.csv", "models.csv"))
        return [list(csv.DictReader(table.read_text().splitlines())) for table in tables]

    return run


def check_counts(operators):
    first, attention, acmix = operators
    assert (first["operator"], first["macs_stage1"], first["params_stage2_attention"]) == (
        "convolution", "2359296", "0",
    )  # fmt: skip
    assert attention["params_stage2_convolution"] == "0" != acmix["params_stage2_convolution"]


def test_costs_by_stage(run, tmp_path, monkeypatch):
    measured = []

    def stage_times(module, images):
        measured.append(type(module).__name__)
        return {part: 10.0 * len(measured) + i for i, part in enumerate(table1_costs.PARTS)}

    monkeypatch.setattr(table1_costs, "stage_times", stage_times)
    operators, (model,) = run()
    check_counts(operators)
    assert [row["ms_stage2_attention"] for row in operators] == ["11", "21", "31"]
    assert [model[f"ms_{part}"] for part in table1_costs.PARTS] == ["40", "41", "42", "43"]
    assert (tmp_path / "costs.png").stat().st_size > 20_000
    assert (tmp_path / "record.json").exists()
    assert run() == [operators, [model]]
    assert len(measured) == 4  # nothing is measured again


@pytest.mark.slow
def test_stages_are_timed(run):
    operators, (model,) = run()
    check_counts(operators)
    first, _, acmix = operators
    assert float(first["ms_stage1"]) > 0 == float(first["ms_stage2_attention"])
    assert all(float(acmix[f"ms_{part}"]) > 0 for part in ("stage2_attention", "stage2_convolution"))
    assert sum(float(model[f"ms_{part}"]) for part in table1_costs.PARTS) > 0


def test_table_1_in_closed_form_counts_what_the_layers_have():
    for size, features in ((8, 64), (4, 128)):
        x = jax.ShapeDtypeStruct((1, size, size, features), "float32")
        for name, cost in table1_costs.operator_costs(features, size**2).items():
            shapes = jax.eval_shape(table1_costs.operators(features)[name].init, jax.random.key(0), x)
            assert sum(cost.params.values()) == sum(shape.size for shape in jax.tree.leaves(shapes))
