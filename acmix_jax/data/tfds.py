"""Source of any image classification set that TFDS has prepared as array_record; needs no TensorFlow."""

import numpy as np

from acmix_jax.data.folder import SPLITS
from acmix_jax.data.photos import Photo
from acmix_jax.errors import UserError


class TfdsSource:
    """Examples {"image": Photo or uint8 `[H, W, C]`, "label": int32 scalar} of a prepared TFDS data set."""

    def __init__(self, name: str, split: str, directory: str):
        """Opens split "train" or "test" of data set `name` below `directory` (empty: TFDS' default).

        Raises:
          UserError: the data set is not prepared as array_record; says how to do that.
        """
        import tensorflow_datasets as tfds

        try:
            options = {"data_dir": directory or None, "download": False}
            splits = tfds.data_source(name, **options)
            self._split = next((n for n in SPLITS[split] if n in splits), split)
            self._source, self._channels = splits[self._split], None
            image = self._source.dataset_info.features["image"]
            if isinstance(image, tfds.features.Image):
                decoders = {"image": tfds.decode.SkipDecoding()}
                self._source, self._channels = (
                    tfds.data_source(name, split=self._split, decoders=decoders, **options),
                    image.shape[-1],
                )
        except (tfds.core.DatasetNotFoundError, AssertionError, KeyError, NotImplementedError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"TFDS cannot open {name!r} ({reason}); prepare it once, where TensorFlow is installed: "
                f"tfds build {name} --file_format=array_record --data_dir=FOLDER; then set --config.data.dir=FOLDER"
            ) from error

    @property
    def num_classes(self) -> int:
        """Number of classes in TFDS' description."""
        return self._source.dataset_info.features["label"].num_classes

    @property
    def classes(self) -> list[str]:
        """Names of the classes in TFDS' description; their numbers, if it has none."""
        return self._source.dataset_info.features["label"].names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self._source[index]
        image = example["image"]
        if self._channels:
            name = example.get("file_name", f"{index} of {self._split}")
            image = Photo(image, name.decode() if isinstance(name, bytes) else name, self._channels)
        return {"image": image, "label": np.int32(example["label"])}
