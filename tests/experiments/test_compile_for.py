import csv
import sys

import jax
import pytest

from experiments import compile_for
from experiments.compile_for import Job

SMALL = ["--target=cpu", "--models=resnet14_stem1", "--programs=eval", "--img-size=16", "--batch=1"]
FAILED = "print('x'); raise SystemExit('a last word')"
ABORTED = (
    "import os, sys; print('F1126 01:02:03.4 1 tiling.cc:1] Check failed: a == b (784 vs. 56)', file=sys.stderr, "
    "flush=True); os.abort()"
)
NEEDS_A_CARD = (
    "import json, os; flags = os.environ['XLA_FLAGS']; "
    "print(json.dumps({'status': 'ok' if 'triton_gemm=false' in flags else 'failed: No supported config found'}))"
)


def job(program, model="acmix_resnet14_stem1", target="cpu", settings=""):
    return Job(model, program, target, 2, 16, "bfloat16", 1, settings)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command at smoke scale; returns the rows of the table."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compile_for.py", f"--out={tmp_path}", *SMALL, *arguments])
        compile_for.main()
        return list(csv.DictReader((tmp_path / "compile_for.csv").read_text().splitlines()))

    return run


@pytest.fixture
def compiler(monkeypatch):
    """Puts a line of Python in the place of the process that compiles."""
    return lambda code: monkeypatch.setattr(compile_for, "COMMAND", [sys.executable, "-c", code])


def test_a_network_is_compiled_once(run, tmp_path, compiler, capsys):
    (row,) = run()
    assert (row["model"], row["status"], row["devices"], row["batch"]) == ("resnet14_stem1", "ok", "8", "1")
    assert float(row["total_gib"]) > float(row["arguments_gib"]) > 0
    assert (tmp_path / "compile_for.png").stat().st_size > 10_000
    assert (tmp_path / "record.json").exists()
    assert "1 of 1: resnet14_stem1 eval: ok, 0.0" in capsys.readouterr().out
    compiler(ABORTED)
    assert run() == [row]
    assert "1 of 1 programs compiled before" in capsys.readouterr().out


def test_an_abort_of_the_compiler_is_a_row(run, compiler):
    compiler(ABORTED)
    rows = run("--programs=train,eval")
    assert [row["status"] for row in rows] == ["abort: Check failed: a == b (784 vs. 56)"] * 2
    assert rows[0]["total_gib"] == ""


@pytest.mark.parametrize(
    ("code", "status"),
    [(FAILED, "failed: a last word"), ("import os; os.kill(os.getpid(), 9)", "abort: SIGKILL")],
)
def test_other_ends_of_the_process_are_rows_too(run, compiler, code, status):
    compiler(code)
    assert [row["status"] for row in run()] == [status]


def test_a_gpu_program_that_needs_a_card_is_compiled_without_triton(compiler):
    compiler(NEEDS_A_CARD)
    assert compile_for.compile_apart(job("eval", target="h100"))["status"] == "ok without Triton products"
    assert compile_for.compile_apart(job("eval", target="cpu"))["status"] == "failed: No supported config found"


def test_the_train_step_is_that_of_the_recipe():
    """ResNet: SGD with momentum; the old state is donated, the batch is not."""
    lowered = compile_for.lower(job("train"))
    (state, batch), _ = lowered.args_info
    assert (batch["image"].shape, batch["image"].dtype) == ((16, 16, 16, 3), "uint8")  # 2 images on each of 8 devices
    shapes = [sorted(leaf.shape for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.opt_state)]
    assert set(shapes[0]) <= set(shapes[1])
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(batch))


def test_what_cannot_be_lowered_is_a_row():
    row = compile_for.compile_here(job("train", settings="attention_form=tile"))
    assert row["status"] == "failed: unknown form of attention 'tile'; did you mean tiled?"


def test_a_program_that_is_too_large_does_not_fit(monkeypatch):
    def refuse(_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM,\n 20.13G exceeds 15.75G")

    monkeypatch.setattr(compile_for, "lower", refuse)
    status = "failed: RESOURCE_EXHAUSTED: Ran out of memory on HBM, 20.13G exceeds 15.75G"
    assert compile_for.compile_here(job("train")) == {"status": status, "fits": False}


def test_a_folded_network_has_folded_variables():
    (variables, _), _ = compile_for.lower(job("folded")).in_avals
    assert "folded" in variables
    assert compile_for.lower(job("folded", "swin_micro_patch2")) is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--target=v5e", "unknown target 'v5e'; did you mean v5e:1x1"),
        ("--models=resnet26,acmix_resnet51", "unknown model 'acmix_resnet51'; did you mean acmix_resnet50"),
        ("--programs=training", "unknown program 'training'; did you mean train"),
        ("--set=attention_fom=tiled", "unknown config field 'acmix.attention_fom'; did you mean acmix.attention_form"),
        ("--set=remat", "--set=remat is not FIELD=VALUE"),
        ("--set=remat=3", "--set=remat=3 is not valid; use True or False"),
        ("--fsdp=3", "--config.fsdp=3 does not divide the 8 devices"),
        ("--batch=0", "use at least 1"),
    ],
)
def test_mistakes_end_with_one_line(run, tmp_path, argument, message):
    with pytest.raises(SystemExit, match=message):
        run(argument)
    assert not list(tmp_path.iterdir())  # found before anything is compiled
