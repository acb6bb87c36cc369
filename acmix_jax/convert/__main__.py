"""PyTorch weights to a folder for main.py, or back.

python -m acmix_jax.convert --model=acmix_swin_tiny --checkpoint=FILE.pth --out=DIR
python -m acmix_jax.convert --model=acmix_swin_tiny --checkpoint=DIR --out=FILE.pth

DIR of the first command serves `main.py --mode=eval --config=... --workdir=DIR` and `--config.init_from=DIR`; its step
is the number of batches that PyTorch's BatchNorm counted, and goes back as such. DIR of the second one may also be the
workdir of a run. ACmix layers have the fields of the released networks; for others, from_torch and to_torch take them.
Needs PyTorch: pip install torch.
"""

import argparse
import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from acmix_jax.config import local_path
from acmix_jax.convert.state_dict import batches_tracked, from_torch, to_torch
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.models import parse_name
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.weights.stored import read_trainable


def import_weights(model: str, file: Path, folder: Path) -> str:
    """Converts a PyTorch file into `folder`; returns a summary.

    Raises:
      UserError: the file cannot be read or is not one of `model`; the folder is in use or cannot be written.
    """
    state_dict = _load(file)
    variables = from_torch(model, state_dict)
    workdir.check_unused(folder)
    facts = {
        "model": model,
        "num_classes": len(variables["params"]["head"]["bias"]),
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(batches_tracked(state_dict), variables)
    workdir.write_facts(folder, facts)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return f"{model}: {count:,} parameters, {facts['num_classes']} classes, written to {folder}"


def export_weights(model: str, folder: Path, file: Path) -> str:
    """Converts the newest checkpoint in `folder` into a PyTorch file; returns a summary.

    Raises:
      UserError: there is no checkpoint, it is of another model, or the file cannot be written.
    """
    torch = _torch()
    if (saved := workdir.model_of(folder)) != model:
        raise UserError(f"{folder} holds weights of {saved}; set --model={saved}")
    step, variables = read_trainable(folder)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in to_torch(model, variables, step).items()}
    try:
        torch.save({"state_dict": tensors}, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {file} ({error}); choose another --out") from error
    return f"{model} at step {step}: {len(tensors)} tensors written to {file}"


def _load(file: Path) -> Any:
    torch = _torch()
    # What the training scripts of PVT and Swin save beside the weights; the second one is a dict with attributes.
    harmless = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
    try:
        with torch.serialization.safe_globals(harmless):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from error
    except Exception as error:  # PyTorch raises many types for files that it cannot read
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = "it is corrupt or of another kind"
        if foreign:
            reason = f"it holds a {foreign[1]}, too; if you trust it, load it in PyTorch and save its state dict alone"
        raise UserError(f"{file} is not a PyTorch file of weights only: {reason}") from error


def _torch():
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch files need PyTorch: pip install torch") from error
    return torch


def main() -> None:
    """Converts what the arguments name; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="acmix_jax.convert", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="name of the model, see acmix_jax.list_models()")
    parser.add_argument("--checkpoint", required=True, type=local_path, help="PyTorch file or folder with a checkpoint")
    parser.add_argument("--out", required=True, type=local_path, help="folder, or PyTorch file, to write")
    arguments = parser.parse_args()
    with one_line_errors():
        parse_name(arguments.model)
        convert = export_weights if arguments.checkpoint.is_dir() else import_weights
        print(convert(arguments.model, arguments.checkpoint, arguments.out))


if __name__ == "__main__":
    main()
