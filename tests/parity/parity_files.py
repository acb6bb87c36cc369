"""PyTorch files of weights to folders for main.py, and back."""

import argparse
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from acmix_jax.convert import __main__ as command
from acmix_jax.convert import to_torch
from acmix_jax.convert.files import read_file
from acmix_jax.convert.state_dict import variable_shapes
from acmix_jax.run.workdir import read_facts

ROOT = Path(__file__).parents[2]
RESNET, SWIN = "acmix_resnet14_stem1", "acmix_swin_micro_patch2"


class CfgNode(dict):
    """Pickled as the class of yacs, which has values in its __dict__, too."""

    __module__ = "yacs.config"

    def __init__(self, values):
        super().__init__(values)
        self.__dict__["__immutable__"] = True


class Harmful:
    """Makes a folder when it is loaded without care."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


WRAPPERS = {
    "bare": lambda state: state,
    "ResNet": lambda state: {"state_dict": {f"module.{key}": x for key, x in state.items()}, "arch": "resnet26"},
    "PVT": lambda state: {"model": state, "args": argparse.Namespace(model="pvt_tiny", output_dir=None)},
    "Swin": lambda state: {"model": state, "config": CfgNode({"MODEL": CfgNode({"NAME": "acmix_swin_tiny"})})},
}


def random_state(name, head=None):
    rng = np.random.default_rng(0)
    shapes = variable_shapes(name, num_classes=10, head=head)
    variables = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    return {key: torch.from_numpy(x) for key, x in to_torch(name, variables, num_batches_tracked=450_360).items()}


def there_and_back(name, file, head=None):
    """The state dict that comes out when `file` went in."""
    command.import_weights(name, file, file.with_suffix(".converted"), head=head)
    command.export_weights(name, file.with_suffix(".converted"), file.with_suffix(".back"))
    return torch.load(file.with_suffix(".back"), weights_only=True)["state_dict"]


def check_same(state, expected):
    """The same names, and the same types, shapes and bytes."""
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (state[key].dtype, state[key].shape) == (tensor.dtype, tensor.shape), key
        assert state[key].numpy().tobytes() == tensor.numpy().tobytes(), key


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", [RESNET, SWIN, "acmix_san10", "acmix_pvt_micro_patch2"])
def test_every_byte_survives(name, wrapper, tmp_path, monkeypatch):
    state = random_state(name)
    with monkeypatch.context() as while_saving:  # who converts need not have yacs
        for module in ("yacs", "yacs.config"):
            while_saving.setitem(sys.modules, module, types.ModuleType(module))
        sys.modules["yacs.config"].CfgNode = CfgNode
        torch.save(WRAPPERS[wrapper](state), tmp_path / "weights.pth")
    check_same(there_and_back(name, tmp_path / "weights.pth"), state)


def test_every_byte_of_a_segmenter_survives(tmp_path):
    """As mmsegmentation saves it."""
    state = random_state("acmix_pvt_micro_patch2", "semantic_fpn")
    torch.save({"meta": {"epoch": 1, "CLASSES": ("wall",)}, "state_dict": state}, tmp_path / "weights.pth")
    check_same(there_and_back("acmix_pvt_micro_patch2", tmp_path / "weights.pth", "semantic_fpn"), state)
    facts = read_facts(tmp_path / "weights.converted")
    assert (facts["model"], facts["head"], facts["num_classes"]) == ("acmix_pvt_micro_patch2", "semantic_fpn", 10)


def test_commands_of_the_documents(tmp_path):
    """The file goes in by the first command and comes out by the second."""
    lines = re.findall(r"^python -m acmix_jax\.convert .*", (ROOT / "docs" / "training.md").read_text(), re.M)
    assert len(lines) == 2
    state = random_state("acmix_swin_tiny")
    torch.save({"model": state}, tmp_path / "acmix_swin_tiny.pth")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for line in lines:
        command_line = [sys.executable, *line.split()[1:]]
        done = subprocess.run(command_line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("acmix_swin_tiny") and done.stdout.count("\n") == 1
    check_same(torch.load(tmp_path / "runs" / "swin.pth", weights_only=True)["state_dict"], state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype, tmp_path):
    state = random_state(RESNET)
    half = {key: x.to(dtype) if x.is_floating_point() else x for key, x in state.items()}
    torch.save(half, tmp_path / "weights.pth")
    expected = {key: x.float() if x.is_floating_point() else x for key, x in half.items()}
    check_same(there_and_back(RESNET, tmp_path / "weights.pth"), expected)


def run_command(flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["acmix_jax.convert", *flags])
        command.main()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.81),
        np.int64(3),
        np.arange(4),
        Path("runs/a"),
        argparse.Namespace(out=Path("runs"), lr=np.float32(1)),
    ],
)
def test_scores_and_paths_may_lie_beside_the_weights(beside, old, tmp_path):
    state = {"weight": torch.ones(3)}
    torch.save({"net": state, "extra": beside}, tmp_path / "weights.pth", _use_new_zipfile_serialization=not old)
    check_same(read_file(tmp_path / "weights.pth")["net"], state)


@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
def test_safetensors_files(half, tmp_path):
    state = random_state(SWIN)
    if half:
        state = {
            key: x.to(half).float() if x.is_floating_point() and "mask" not in key else x for key, x in state.items()
        }
    narrow = {key: x.to(half) if half and x.is_floating_point() else x for key, x in state.items()}
    save_file(narrow, tmp_path / "model.safetensors", metadata={"format": "pt"})
    command.import_weights(SWIN, tmp_path / "model.safetensors", tmp_path / "converted")
    command.export_weights(SWIN, tmp_path / "converted", tmp_path / "back.safetensors")
    check_same(load_file(tmp_path / "back.safetensors"), state)


def test_types_that_numpy_lacks_are_named(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_file({"norm.weight": torch.ones(3).to(torch.float8_e4m3fn), "norm.bias": torch.ones(3)}, file)
    message = refusal(monkeypatch, file, tmp_path / "out")
    assert "has tensors of type F32, F8_E4M3; save them as F32, F16 or BF16" in message


@pytest.mark.parametrize("name", ["swin_micro_patch2", SWIN])
def test_masks_of_another_window_and_image_size_come_back(name, tmp_path):
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variable_shapes(name, 10, window_size=4))
    state = {key: torch.from_numpy(x) for key, x in to_torch(name, variables, image_size=64).items()}
    torch.save({"model": state}, tmp_path / "weights.pth")
    flags = ["--model", name, "--checkpoint", str(tmp_path / "weights.pth"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"windows .* 4 pixels wide, not 7: set window_size=4 \(--window_size=4 on"):
        run_command(flags)
    run_command([*flags, "--window_size=4"])
    command.export_weights(name, tmp_path / "out", tmp_path / "back.pth")
    check_same(torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"], state)


@pytest.mark.parametrize(
    ("plain", "average", "key"),
    [("model", "model_ema", "model_ema"), ("net", "ema", "ema"), ("student", "teacher", "teacher.module")],
)
def test_the_choice_of_weights_is_said(plain, average, key, tmp_path, capsys):
    state = random_state(RESNET)
    other = {f"module.{key}": x + 1 for key, x in state.items()}
    torch.save({average: other, plain: state, "epoch": 3}, tmp_path / "weights.pth")
    flags = ["--model", RESNET, "--checkpoint", str(tmp_path / "weights.pth"), "--out"]
    run_command([*flags, str(tmp_path / "plain")])
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"taken from {plain}, there are others in {average}: set key={average} (--key={average} in" in said
    run_command([*flags, str(tmp_path / "average"), f"--key={key}"])
    assert "there are others" not in capsys.readouterr().out
    for folder, values in (("plain", state), ("average", {key: x + 1 for key, x in state.items()})):
        command.export_weights(RESNET, tmp_path / folder, tmp_path / f"{folder}.pth")
        check_same(torch.load(tmp_path / f"{folder}.pth", weights_only=True)["state_dict"], values)


def test_files_of_old_pytorch(tmp_path):
    state = random_state(RESNET)
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    check_same(there_and_back(RESNET, tmp_path / "weights.pth"), state)


@pytest.mark.parametrize("old", [False, True])
def test_foreign_object_is_refused(old, tmp_path, monkeypatch):
    file, folder = tmp_path / "weights.pth", tmp_path / "made"
    content = {"model": random_state(SWIN), "extra": Harmful(folder)}
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    assert f"{os.mkdir.__module__}.mkdir" in refusal(monkeypatch, file, tmp_path / "out")
    assert not folder.exists()


BAD_FILES = {
    "text": lambda file: file.write_text("weights\n" * 100),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: (torch.save(random_state(SWIN), file), os.truncate(file, file.stat().st_size // 2)),
    "tensor": lambda file: torch.save(torch.zeros(3), file),
    "list": lambda file: torch.save([torch.zeros(3)], file),
    "log": lambda file: torch.save({"epoch": 2, "losses": [[2.3, 1.9], [1.7]]}, file),
    "missing": lambda file: None,
    "folder": lambda file: file.mkdir(),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_other_files_are_refused(kind, tmp_path, monkeypatch):
    BAD_FILES[kind](tmp_path / "weights.pth")
    refusal(monkeypatch, tmp_path / "weights.pth", tmp_path / "out")


def refusal(monkeypatch, file, out):
    flags = ["--model", SWIN, "--checkpoint", str(file), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["acmix_jax.convert", *flags])
    with pytest.raises(SystemExit) as stop:
        command.main()
    message = stop.value.code  # which Python prints on standard error
    assert message.startswith("error: ") and "\n" not in message
    assert not out.exists()
    return message
