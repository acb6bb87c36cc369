"""Files of weights, PyTorch's and safetensors; a file that is neither, or not whole, is told by its first bytes."""

import argparse
import json
import re
import string
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from acmix_jax.errors import UserError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # PyTorch since 1.6, and before


def read_file(file: Path) -> Any:
    """Contents of a file of weights: tensors by name, or mappings with such mappings in them.

    Raises:
      UserError: it cannot be read, is no such file, is cut off, or holds more than weights; or the library that reads
        it is not installed.
    """
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is no regular file; name a file of weights")
        with file.open("rb") as opened:
            start = opened.read(512)
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from error
    is_torch = start.startswith((_ZIP, _PICKLE))
    if b"\0" in start[:8] and start[8:9] == b"{":  # after the length of the header, 8 bytes
        return _read_safetensors(file)
    if not is_torch and (reason := _no_weights(start)):
        raise UserError(f"{file} {reason}")
    if not is_torch and file.suffix == ".safetensors":
        raise UserError(f"{file} is no safetensors file: it has no header; copy or download it again")
    if start.startswith(_ZIP) and not zipfile.is_zipfile(file):  # the table of a zip file is at its end
        raise UserError(f"{file} is cut off: it begins as a PyTorch file and has no end; copy or download it again")
    return _read_torch(file, start)


def write_file(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a safetensors file, if the file has that suffix, or else as a PyTorch file.

    Raises:
      UserError: it cannot be written, or the library that writes it is not installed.
    """
    try:
        if file.suffix == ".safetensors":
            _safetensors(file).numpy.save_file(dict(tensors), file, metadata={"format": "pt"})
        else:
            torch = _torch(file)
            torch.save({"state_dict": {key: torch.from_numpy(np.array(x)) for key, x in tensors.items()}}, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {file} ({error}); choose another --out") from error


def _no_weights(start):
    """Kind of a file with these first bytes, if that is known and no file of weights; None otherwise."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()  # the mark that Windows puts before text, and blanks
    if not start:
        return "is empty; copy or download it again"
    if not start.strip(b"\0"):
        return "begins with zeros: most likely its download was cut off; copy or download it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer to the weights: run git lfs pull where it comes from"
    if text.startswith(b"<"):
        return "is a web page (HTML or XML) instead of weights: download the file that the page is about"
    if start.startswith(b"\x1f\x8b"):
        return "is compressed: run gunzip on it"
    if all(byte in string.printable.encode() for byte in start):
        return f"is text and no weights, it begins with {start[:40].decode()!r}: name or download the file of weights"
    return None


def _read_safetensors(file):
    size = file.stat().st_size - 8
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(length, size))
    try:
        entries = [entry for key, entry in json.loads(header).items() if key != "__metadata__"]
        end = length + max((entry["data_offsets"][1] for entry in entries), default=0)
        types = sorted({entry["dtype"] for entry in entries})
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = "is cut off in its header" if length > size else "has a corrupt header"
        raise UserError(f"{file} {what}; copy or download it again") from error
    if end > size:
        raise UserError(f"{file} is cut off: {end - size:,} bytes are missing at its end; copy or download it again")
    safetensors = _safetensors(file)
    try:
        with safetensors.safe_open(file, "np") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118, it is no mapping
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} has tensors of type {', '.join(types)}; save them as F32, F16 or BF16") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {file} ({error}); copy or download it again") from error


def _read_torch(file, start):
    torch = _torch(file)
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from error
    except Exception as error:  # PyTorch raises many types for files that it cannot read
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            reason = f"it holds a {foreign[1]}, too; if you trust it, load it in PyTorch and save its state dict alone"
        elif "TorchScript" in str(error):
            reason = "it holds a TorchScript program; save the state dict of torch.jit.load(...) alone"
        elif start.startswith(_PICKLE):
            reason = "it is cut off, corrupt or of another kind; copy or download it again"
        else:
            reason = "it is corrupt or of another kind; name a PyTorch or safetensors file of weights"
        raise UserError(f"{file} is not a PyTorch file of weights only: {reason}") from error


def _harmless():
    """Types that training scripts save beside the weights, arguments and scores; none of them can run code."""
    scalar, array = (x.__reduce__()[0] for x in (np.float64(0), np.empty(0)))  # functions that NumPy keeps to itself
    parts = [(scalar, "scalar"), (array, "_reconstruct")]
    numpy = [(x, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for x, name in parts]
    types = [type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]]
    paths = [(PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    config = (OrderedDict, "yacs.config.CfgNode")  # a dict with attributes
    return [argparse.Namespace, config, *paths, np.dtype, np.ndarray, *numpy, *types]


def _torch(file):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{file} is a PyTorch file, which needs PyTorch: pip install torch") from error
    return torch


def _safetensors(file):
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(f"{file} is a safetensors file, which needs safetensors: pip install safetensors") from error
    return safetensors
