import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from acmix_jax.data import digits, fashion_mnist
from acmix_jax.data.tfds import TfdsSource
from acmix_jax.errors import UserError
from tests.photographs import write_folder


def test_digits_are_split_once_and_for_all():
    train, test = digits.load("train", ""), digits.load("test", "")
    assert (len(train), len(test)) == (1437, 360)
    assert train[0]["image"].shape == (8, 8, 1)
    assert train[0]["image"].dtype == np.uint8
    assert max(example["image"].max() for example in test) == 255
    assert [int(test[i]["label"]) for i in range(5)] == [0, 5, 0, 5, 0]
    assert sorted({int(example["label"]) for example in test}) == list(range(10))
    assert test.classes == [str(i) for i in range(10)]


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
    assert [test.classes[i] for i in (7, 0, 9)] == ["Sneaker", "T-shirt/top", "Ankle boot"]


def test_absent_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte.gz .* dataset-fashion-mnist.*tfds:fashion"):
        fashion_mnist.load("train", str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz is corrupt"):
        fashion_mnist.load("train", str(tmp_path))


def prepare(tmp_path, name, image, examples):
    """Prepares a data set of these examples as `tfds build` does."""
    import tensorflow_datasets as tfds

    def info(self):
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    methods = {
        "VERSION": tfds.core.Version("1.0.0"), "pkg_dir_path": tmp_path, "_info": info,
        "_split_generators": lambda self, dl_manager: {"train": self._generate_examples()},
        "_generate_examples": lambda self: enumerate(examples),
    }  # fmt: skip
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), methods)
    builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()


@pytest.mark.filterwarnings("ignore")  # TFDS' own, on writing
def test_tfds_reads_what_it_prepared(tmp_path):
    import tensorflow_datasets as tfds

    image = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8)
    prepare(tmp_path, "Arrays", image, [{"image": np.full((4, 4, 1), i, np.uint8), "label": i} for i in range(6)])
    source = TfdsSource("arrays", "train", str(tmp_path))
    assert len(source) == 6
    assert source.classes == [str(i) for i in range(10)]  # the data set gives a number of classes alone
    assert sorted((int(source[i]["label"]), int(source[i]["image"].max())) for i in range(6)) == [
        (i, i) for i in range(6)
    ]
    with pytest.raises(UserError, match="TFDS cannot open 'absent' .* --file_format=array_record"):
        TfdsSource("absent", "train", str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_tfds_gives_encoded_images_as_they_are(tmp_path):
    """As ImageNet has them; this project decodes them, without TensorFlow."""
    import tensorflow_datasets as tfds

    folder = write_folder(tmp_path / "folder", train=2, test=1) / "train"
    names = sorted(str(path) for path in folder.rglob("*.JPEG"))
    examples = [{"image": name, "label": i} for i, name in enumerate(names)]
    prepare(tmp_path, "Photos", tfds.features.Image(shape=(None, None, 3)), examples)
    source = TfdsSource("photos", "train", str(tmp_path))
    assert len(source) == 6
    for i in range(6):
        photo, label = source[i]["image"], int(source[i]["label"])
        assert photo.data == Path(names[label]).read_bytes()
        assert photo.channels == 3
        assert photo.name == f"{i} of train"
    assert "tensorflow" not in sys.modules
