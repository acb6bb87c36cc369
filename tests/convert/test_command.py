"""The command, as far as it needs no PyTorch; tests/parity has the rest."""

import sys

import pytest

from acmix_jax.convert import __main__ as command


def refusal(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["acmix_jax.convert", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code.startswith("error: ")
    return stop.value.code


@pytest.mark.parametrize("option", ["--key=model_ema", "--window_size=12", "--head=upernet"])
def test_options_for_files_are_refused_for_folders(option, tmp_path, monkeypatch):
    flags = "--model=swin_tiny", f"--checkpoint={tmp_path}", f"--out={tmp_path}/weights.pth", option
    assert f"{tmp_path} is a folder; leave them out" in refusal(monkeypatch, *flags)


def test_a_pointer_leaves_no_folder(tmp_path, monkeypatch):
    file, out = tmp_path / "swin.pth", tmp_path / "out"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    message = refusal(monkeypatch, "--model=swin_tiny", f"--checkpoint={file}", f"--out={out}")
    assert message == f"error: {file} is a Git LFS pointer to the weights: run git lfs pull where it comes from"
    assert not out.exists()
