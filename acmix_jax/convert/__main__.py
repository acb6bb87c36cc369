"""PyTorch weights to a folder for main.py, or back.

python -m acmix_jax.convert --model=acmix_swin_tiny --checkpoint=FILE.pth --out=DIR
python -m acmix_jax.convert --model=acmix_swin_tiny --checkpoint=DIR --out=FILE.pth
python -m acmix_jax.convert --model=swin_tiny --head=upernet --checkpoint=FILE.pth --out=DIR

DIR of the first command serves `main.py --mode=eval --config=... --workdir=DIR` and `--config.init_from=DIR`; its step
is the number of batches that PyTorch's BatchNorm counted, and goes back as such. DIR of the second one may also be the
workdir of a run. ACmix layers have the fields of the released networks, but for the window; for others, from_torch and
to_torch take them. FILE may be a safetensors file, too, and has that suffix to be written as one.
"""

import argparse
import hashlib
from pathlib import Path

import jax

from acmix_jax.config import local_path
from acmix_jax.convert.files import read_file, write_file
from acmix_jax.convert.state_dict import convert, to_torch
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.models import parse_name
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.weights.names import classifier_of, window_of
from acmix_jax.weights.stored import read_trainable


def import_weights(
    model: str,
    file: Path,
    folder: Path,
    key: str | None = None,
    window_size: int | None = None,
    head: str | None = None,
) -> str:
    """Converts a file of weights into `folder`; returns a summary.

    Args:
      key: where in the file the weights are; see `from_torch`.
      window_size: of the attention; None for the model's own.
      head: of a segmenter; None for a classifier.

    Raises:
      UserError: the file cannot be read or is not one of `model`; the folder is in use or cannot be written.
    """
    content = read_file(file)
    fields = {} if window_size is None else {"window_size": window_size}
    try:
        converted = convert(model, content, key, head, **fields)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    variables = converted.variables
    workdir.check_unused(folder)
    facts = {
        "model": model,
        "num_classes": classifier_of(variables["params"])[1],
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "image_size": converted.image_size,
        **fields,
        **({} if head is None else {"head": head}),
    }
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(converted.batches_tracked, variables)
    workdir.write_facts(folder, facts)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    what = f"{model} with {head}" if head else model
    written = f"{what}: {count:,} parameters, {facts['num_classes']} classes, written to {folder}"
    return "; ".join([written, *converted.notes])


def export_weights(model: str, folder: Path, file: Path) -> str:
    """Converts the newest checkpoint in `folder` into a PyTorch or safetensors file; returns a summary.

    Raises:
      UserError: there is no checkpoint, it is of another model, or the file cannot be written.
    """
    facts = workdir.read_facts(folder)
    if facts["model"] != model:
        raise UserError(f"{folder} holds weights of {facts['model']}; set --model={facts['model']}")
    step, variables = read_trainable(folder)
    trained = facts.get("image_size") or facts.get("config", {}).get("data", {}).get("image_size")
    image_size = trained or 32 * (window_of(variables["params"]) or 7)  # one window covers the last map, as released
    tensors = to_torch(model, variables, step, image_size)
    write_file(file, tensors)
    return f"{model} at step {step}: {len(tensors)} tensors written to {file}"


def main() -> None:
    """Converts what the arguments name; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="acmix_jax.convert", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="name of the model, see acmix_jax.list_models()")
    parser.add_argument(
        "--checkpoint", required=True, type=local_path, help="file of weights or folder with a checkpoint"
    )
    parser.add_argument("--out", required=True, type=local_path, help="folder, or file of weights, to write")
    parser.add_argument("--key", help="where in the file the weights are, such as model_ema, if there are several")
    parser.add_argument("--window_size", type=int, help="width of the attention window, if not the model's own")
    parser.add_argument("--head", help="of a segmenter, semantic_fpn or upernet; without it, a classifier")
    arguments = parser.parse_args()
    with one_line_errors():
        parse_name(arguments.model)
        options = arguments.key, arguments.window_size, arguments.head
        if not arguments.checkpoint.is_dir():
            print(import_weights(arguments.model, arguments.checkpoint, arguments.out, *options))
        elif options == (None, None, None):
            print(export_weights(arguments.model, arguments.checkpoint, arguments.out))
        else:
            raise UserError(
                f"--key, --window_size and --head are for files, {arguments.checkpoint} is a folder; leave them out"
            )


if __name__ == "__main__":
    main()
