"""Files that are no weights, or not whole, are told without PyTorch; safetensors files are in tests/parity."""

import io
import json
import os
import sys
import zipfile

import pytest

from acmix_jax.convert.files import read_file
from acmix_jax.errors import UserError


def safetensors(numbers=4, **changes):
    """The bytes of a safetensors file of one tensor."""
    entry = {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]} | changes
    header = json.dumps({"__metadata__": {"format": "pt"}, "head.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4 * numbers)


def pytorch():
    """The beginning of what PyTorch writes: a zip file."""
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", bytes(300))
        return buffer.getvalue()


CONTENTS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "is a Git LFS pointer .* git lfs pull"),
    "page": (b"\n  <html><head><title>Quota exceeded</title>", "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf<!doctype HTML>", "is a web page"),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(1000), "begins with zeros: most likely its download was cut off"),
    "text": (b"Not Found", "is text and no weights, it begins with 'Not Found'"),
    "index": (b'{"meta":{"total_size": 12}, "weight_map": {}}', "is text and no weights"),
    "compressed": (b"\x1f\x8b\x08\x00rest", "is compressed: run gunzip"),
    "cut zip": (pytorch()[:-30], "is cut off: it begins as a PyTorch file and has no end"),
    "start of a zip": (pytorch()[:40], "is cut off"),
    "cut safetensors": (safetensors()[:-3], "is cut off: 3 bytes are missing at its end"),
    "cut header": (safetensors()[:50], "is cut off in its header"),
    "corrupt header": (safetensors(data_offsets=None), "has a corrupt header"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_the_reason_is_named(kind, suffix, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    content, reason = CONTENTS[kind]
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        read_file(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="is no regular file"):
        read_file(tmp_path / "weights.pth")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*weights.pth \(No such file or directory\)"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_library_that_is_missing_is_named(library, tmp_path, monkeypatch):
    for module in (library, f"{library}.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "weights").write_bytes(pytorch() if library == "torch" else safetensors())
    with pytest.raises(UserError, match=f"weights is a .* file, which needs .*: pip install {library}"):
        read_file(tmp_path / "weights")
