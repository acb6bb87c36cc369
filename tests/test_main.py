"""The command line: a user's mistake ends it with one line that says what to change, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver

import main
from acmix_jax.config import flatten

ROOT = Path(__file__).parent.parent
DIGITS = "--config=configs/digits.py"


def run(*arguments):
    """Exit code and stderr of the program itself."""
    process = subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120
    )
    return process.returncode, process.stderr


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the program in this process, which takes a tenth of the time."""

    def command(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments, f"--workdir={tmp_path / 'run'}"])  # for config_flags
        with flagsaver.flagsaver():
            main.parse_flags(sys.argv)
            main.main([])

    return command


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of config_flags' own loader
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/digit.py"], "unknown config file 'configs/digit.py'; did you mean configs/digits.py"),
        ([DIGITS, "--config.batchsize=8"], "unknown config field 'batchsize'; did you mean batch_size"),
        (
            [DIGITS, "--config.optimizer.momentun=0"],
            "unknown config field 'optimizer.momentun'; did you mean optimizer.momentum",
        ),
        ([DIGITS, "--config.batch_size=many"], "--config.batch_size=many"),
        ([DIGITS, "--config.data.mean=grey"], "--config.data.mean=('grey',) is not valid; use 1 or 3 values"),
        ([DIGITS, "--config.data.mean=0.5,0.5,0.5"], "has 3 values, but the images have 1 channels"),
        (
            [DIGITS, "--config.drop_path", "0.1"],
            "--config.drop_path needs its value behind =, such as --config.drop_path=",
        ),
        ([DIGITS, "--config.drop_path=much"], "--config.drop_path=much is not valid; use a number from 0 to 1"),
        ([DIGITS, "--config.data.dir=$NO_SUCH_NAME"], "$NO_SUCH_NAME names a user or a variable that does not exist"),
        ([DIGITS, "--mode=trian"], "should be one of <train|eval|inspect|predict|fold|benchmark_input>"),
        ([DIGITS, "--wrkdir=x"], "Did you mean: workdir"),
        ([], "--config=FILE is missing"),
        (["--mode=eval", "--config.batch_size=8"], "needs --config=FILE before it"),
        ([DIGITS, "--config.batch_size=0"], "--config.batch_size=0 is not valid; use a whole number from 1"),
        (
            [DIGITS, "--config.keep_checkpoints=1"],
            "keep_checkpoints=1 is not valid; use a whole number from 2",
        ),
        (
            [DIGITS, "--config.drop_path=15"],
            "drop_path=15 is not valid; use a number from 0 to 1 other than 1, or None",
        ),
        ([DIGITS, "--config.init_from=README.md"], "'README.md' holds neither a run nor converted or folded weights"),
        ([DIGITS, "--config.optimizer.no_decay=("], "missing ), unterminated subpattern"),
        ([DIGITS, "--config.data.num_classes=9"], "the data has 10 classes, the model 9; set --config.data"),
        ([DIGITS, "--config.data.damaged=skp"], "--config.data.damaged=skp is not valid; use fail or skip"),
        ([DIGITS, "--config.data.source=folder"], "data.image_size=0 leaves images of several sizes"),
        (
            [DIGITS, "--config.data.rand_augment=True", "--config.data.image_size=8"],
            "rand_augment=True needs RGB images",
        ),
        ([DIGITS, "--config.batch_norm_groups=7"], "batch_norm_groups=7 does not divide the 64 images"),
        ([DIGITS, "--config.accumulate=5"], "accumulate=5 does not divide batch_size=64"),
        ([DIGITS, "--config.fsdp=3"], "--config.fsdp=3 does not divide the 8 devices; use 1 or a divisor of 8"),
        (
            [DIGITS, "--config.profile_steps=20:10"],
            "profile_steps=20:10 is not valid; use steps such as 100:110",
        ),
        ([DIGITS, "--config.data.image_size=384", "--config.data.eval_resize=256"], "=256 is less than image_size=384"),
        ([DIGITS, "--config.profile_steps=ten"], "--config.profile_steps=ten is not valid; use steps such as 100:110"),
        ([DIGITS, "--config.best_metric=eval_top1"], "unknown best_metric 'eval_top1'; did you mean top1"),
        ([DIGITS, "--config.model=acmix_resnet14"], "did you mean acmix_resnet14_stem1"),
        ([DIGITS, "--config.model=acmix_resnet50"], "8x8 pixels are too small"),
        ([DIGITS, "--config.batch_size=60"], "not divisible by the 8 devices; set --config.batch_size=56 or 64"),
        ([DIGITS, "--config.dtype=float23"], "--config.dtype=float23 is not valid; use float32 or bfloat16"),
        ([DIGITS, "--config.data.source=fashion_mnist", "--config.data.dir=nowhere"], "dataset-fashion-mnist"),
        ([DIGITS, "--mode=eval"], "'{run}' holds neither a run nor converted or folded weights"),
        (["--mode=fold"], "--mode=fold writes a folder of weights; set --out=DIR"),
        (["--mode=fold", "--out=folded"], "'{run}' holds neither a run nor converted or folded weights"),
    ],
)
def test_mistakes_end_with_one_line(command, arguments, message, tmp_path):
    """Anything but SystemExit would be a traceback for the user."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    error = stop.value.code
    assert message.format(run=tmp_path / "run") in error
    assert error.startswith("error: ")
    assert "\n" not in error
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("data.mean=0.5,0.4,0.3", (0.5, 0.4, 0.3)),
        ("data.mean=(0.5, 0.4, 0.3)", (0.5, 0.4, 0.3)),
        ("data.mean=[0.5, 0.4, 0.3]", (0.5, 0.4, 0.3)),
        ("data.mean=0.5", (0.5,)),
        ("data.crop_scale=0.2,1", (0.2, 1)),
        ("drop_path=None", None),
        ("drop_path=0.1", 0.1),
        ("data.num_classes=None", None),
        ("data.num_classes=12", 12),
        ("acmix.window_size=5", 5),
        ("acmix.num_heads=None", None),
        ("acmix.shift_form=dense", "dense"),
        ("data.dir=~/images", "/home/me/images"),
        ("data.dir=$HOME/images", "/home/me/images"),
    ],
)
def test_a_field_is_set(flag, value, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", "/home/me")
    arguments = ["main.py", DIGITS, f"--config.{flag}", "--workdir=~/run"]
    monkeypatch.setattr(sys, "argv", arguments)
    with flagsaver.flagsaver():
        main.parse_flags(arguments)
        assert flatten(main.CONFIG.value.to_dict())[flag.partition("=")[0]] == value
        assert main.WORKDIR.value == "/home/me/run"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_training_keeps_compiled_programs_unless_a_folder_is_chosen(command, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr("acmix_jax.training.loop.train", lambda *_: None)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        command(DIGITS)
        assert jax.config.jax_compilation_cache_dir == (chosen or str(tmp_path / "compilation_cache"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_mistake_prints_that_line_alone(tmp_path):
    code, error = run("--mode=inspect", f"--workdir={tmp_path / 'run'}")
    assert code == 1
    assert error == f"error: '{tmp_path}/run' holds neither a run nor converted or folded weights; check the path\n"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_run_needs_a_folder(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py", DIGITS])
    message = "^error: --workdir=DIR is missing, such as --workdir=runs/digits$"
    with flagsaver.flagsaver(), pytest.raises(SystemExit, match=message):
        main.parse_flags(sys.argv)


def test_a_bucket_is_not_taken_for_a_folder():
    code, error = run(DIGITS, "--workdir=gs://bucket/run")
    assert code == 1
    assert error == "error: --workdir=gs://bucket/run is no folder of this machine; set --workdir=DIR\n"


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    code, error = run(DIGITS, f"--workdir={tmp_path / 'file' / 'run'}")
    assert code == 1
    assert error == f"error: cannot write to '{tmp_path}/file/run' (Not a directory); choose another --workdir\n"
