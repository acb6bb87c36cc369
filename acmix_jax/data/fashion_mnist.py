"""Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey photographs of clothing, 28x28, in 10 classes."""

import gzip
import struct
from pathlib import Path

import numpy as np

from acmix_jax.data.arrays import ArraySource
from acmix_jax.errors import UserError

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_PREFIX = {"train": "train", "test": "t10k"}


def load(split: str, directory: str) -> ArraySource:
    """Reads the "train" or "test" split from its two IDX files, plain or gzipped.

    Raises:
      UserError: a file is absent or corrupt; says how to get it.
    """
    images = _read_idx(Path(directory), f"{_PREFIX[split]}-images-idx3-ubyte")
    labels = _read_idx(Path(directory), f"{_PREFIX[split]}-labels-idx1-ubyte")
    return ArraySource(images[..., None], labels, CLASSES)


def _read_idx(directory: Path, name: str) -> np.ndarray:
    """Reads an IDX file: 2 zero bytes, type (8 = uint8), number of axes, big-endian lengths, then the data."""
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.exists()), None)
    if path is None:
        raise UserError(
            f"no {name}.gz in {str(directory)!r}; set --config.data.dir to the four files of "
            "github.com/zalandoresearch/fashion-mnist (Debian: apt-get install dataset-fashion-mnist), or "
            "--config.data.source=tfds:fashion_mnist"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = struct.unpack_from(f">{data[3]}I", data, 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path} is corrupt ({error}); replace it") from error
