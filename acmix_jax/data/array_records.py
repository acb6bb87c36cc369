"""Source of images in array_record shards, written by `python -m acmix_jax.data.prepare` from a folder of images.

DIR/dataset.json holds the class names and the number of images of each split. DIR/train-00000-of-00032.array_record
and so on hold the images, each a msgpack of (encoded bytes, label, name). A few large files suit network file systems
better than many small ones; the bytes are those of the original files.
"""

import json
from pathlib import Path

import grain
import msgpack
import numpy as np

from acmix_jax.data.photos import CorruptImage, Photo
from acmix_jax.errors import UserError

CONTENTS = "dataset.json"
PREPARE = "python -m acmix_jax.data.prepare"


def shard_path(directory: Path, split: str, shard: int, shards: int) -> Path:
    """Path of one shard."""
    return directory / f"{split}-{shard:05d}-of-{shards:05d}.array_record"


def to_record(photo: Photo, label: int) -> bytes:
    """Serialises one image."""
    return msgpack.packb((photo.data, int(label), photo.name))


def count_records(shards: list[str]) -> int:
    """Number of images in these files."""
    return len(grain.sources.ArrayRecordDataSource(shards))


class RecordSource:
    """Examples {"image": Photo, "label": int32 scalar}, in the order of the folder of images.

    Attributes:
      classes: names of the classes, in the order of the labels.
    """

    def __init__(self, directory: str, split: str):
        """Opens split "train" or "test".

        Raises:
          UserError: there are no prepared images, or shards are missing or corrupt.
        """
        path = Path(directory) / CONTENTS
        try:
            contents = json.loads(path.read_text())
            facts, self.classes = contents["splits"][split], contents["classes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is corrupt or of another program, {error}"
            raise UserError(
                f"cannot read {path} ({reason}); set --config.data.dir to a folder made by {PREPARE} --folder=IMAGES "
                "--out=DIR"
            ) from error
        shards = [shard_path(path.parent, split, i, facts["shards"]) for i in range(facts["shards"])]
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise UserError(
                f"{len(missing)} files such as {missing[0]} are missing in {directory}; make them again with {PREPARE}"
            )
        self._directory = directory
        hint = f"empty the folder, and fill it again with {PREPARE}"  # which keeps the shards that are there
        try:
            self._records = grain.sources.ArrayRecordDataSource([str(shard) for shard in shards])
            count = len(self)
        except RuntimeError as error:
            raise UserError(f"a {split} shard in {directory} is corrupt ({error}); {hint}") from error
        if count != facts["images"]:
            raise UserError(f"{directory} has {count} {split} images instead of {facts['images']}; {hint}")

    @property
    def num_classes(self) -> int:
        """Number of classes in the folder of images."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        try:
            data, label, name = msgpack.unpackb(self._records[index])
        except (RuntimeError, ValueError) as error:
            reason = f"{error}; empty the folder, and prepare it again"
            raise CorruptImage(f"image {index} in {self._directory} is corrupt ({reason})") from error
        return {"image": Photo(data, name), "label": np.int32(label)}
