import gzip
import struct

import numpy as np
import pytest

from acmix_jax.data import digits, fashion_mnist
from acmix_jax.data.tfds import TfdsSource
from acmix_jax.errors import UserError


def test_digits_are_split_once_and_for_all():
    train, test = digits.load("train", ""), digits.load("test", "")
    assert (len(train), len(test)) == (1437, 360)
    assert train[0]["image"].shape == (8, 8, 1)
    assert train[0]["image"].dtype == np.uint8
    assert max(example["image"].max() for example in test) == 255
    assert [int(test[i]["label"]) for i in range(5)] == [0, 5, 0, 5, 0]
    assert sorted({int(example["label"]) for example in test}) == list(range(10))


def write_idx(path, array, opener):
    with opener(path, "wb") as file:
        file.write(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".gz", gzip.open)])
def test_fashion_mnist_reads_idx_files(tmp_path, suffix, opener):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", images, opener)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{suffix}", np.array([7, 0, 9], np.uint8), opener)
    test = fashion_mnist.load("test", str(tmp_path))
    assert len(test) == 3
    np.testing.assert_array_equal(test[1]["image"], images[1, :, :, None])
    assert [int(test[i]["label"]) for i in range(3)] == [7, 0, 9]


def test_absent_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte.gz .* dataset-fashion-mnist .*tfds:fashion"):
        fashion_mnist.load("train", str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz is damaged"):
        fashion_mnist.load("train", str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # TFDS' own, on writing
def test_tfds_reads_what_it_prepared(tmp_path):
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        """Images as tensors: encoding them as PNG would need TensorFlow."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self):
            image = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8)
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                yield i, {"image": np.full((4, 4, 1), i, np.uint8), "label": i}

    Toy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = TfdsSource("toy", "train", str(tmp_path))
    assert len(source) == 6
    assert sorted((int(source[i]["label"]), int(source[i]["image"].max())) for i in range(6)) == [
        (i, i) for i in range(6)
    ]
    with pytest.raises(UserError, match="TFDS cannot open 'absent' .* --file_format=array_record"):
        TfdsSource("absent", "train", str(tmp_path))
