"""Images a second of the input pipeline, on one core and on two, against tf.data's decode-and-crop.

python -m experiments.input_speed --out=runs/input_speed --tensorflow=PYTHON

PYTHON is a Python that has TensorFlow, in an environment of its own; without it those rows are missing. Each way of
reading runs in a process of its own, on the first one or two cores, and all take turns. The images are pieces of
500 x 375 pixels of scikit-learn's photographs, as JPEG; each becomes a random part at 224 x 224 pixels, mirrored or
not. Ours is anti-aliased, as Pillow and torchvision do it; tf.data's is measured both ways.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

BATCH, SIZE = 64, 224
WAYS = {  # name: (side, anti-aliased, cores)
    "acmix_jax, 1 core": ("ours", True, 1),
    "acmix_jax, 2 cores": ("ours", True, 2),
    "tf.data, 1 core": ("tf.data", False, 1),
    "tf.data anti-aliased, 1 core": ("tf.data", True, 1),
}


def write_photographs(folder: Path, count: int = 192) -> None:
    """JPEG files of 500 x 375 pixels in folder/train/photo and one in folder/val/photo."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng, photographs = np.random.default_rng(0), load_sample_images().images
    for split, number in (("train", count), ("val", 1)):
        (folder / split / "photo").mkdir(parents=True)
        for i in range(number):
            photo = photographs[i % len(photographs)]
            top, left = rng.integers(photo.shape[0] - 375 + 1), rng.integers(photo.shape[1] - 500 + 1)
            piece = Image.fromarray(photo[top : top + 375, left : left + 500])
            piece.save(folder / split / "photo" / f"{i:04d}.jpg", quality=90)


def our_batches(folder: Path, cores: int) -> Iterator:
    """Of the ResNet recipe; one core: one thread, two cores: two worker processes."""
    from absl import flags

    from acmix_jax.data import classification, pipeline
    from configs import imagenet

    flags.FLAGS(sys.argv[:1])  # Grain reads some
    config = imagenet.get_config("acmix_resnet50").data
    config.update({"dir": str(folder), "workers": 0 if cores == 1 else cores, "threads": 1})
    change = partial(classification.change, config)
    return pipeline.train_batches(pipeline.open_source(config, "train"), config, change, BATCH, seed=0)


def tensorflow_batches(folder: Path, antialias: bool) -> Iterator:
    """The usual tf.data pipeline of ImageNet, bilinear."""
    import tensorflow as tf

    def example(name):
        data = tf.io.read_file(name)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data), tf.zeros([1, 0, 4]), area_range=(0.08, 1.0), max_attempts=10,
            aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        image = tf.io.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], 0), channels=3)
        image = tf.image.resize(image, [SIZE, SIZE], antialias=antialias)
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    names = sorted(str(path) for path in folder.glob("train/*/*.jpg"))
    return iter(tf.data.Dataset.from_tensor_slices(names).repeat().map(example).batch(BATCH).prefetch(2))


def time_one(name: str, folder: Path, seconds: float) -> float:
    """Images a second of one way, in this process."""
    side, antialias, cores = WAYS[name]
    os.sched_setaffinity(0, range(cores))
    batches = our_batches(folder, cores) if side == "ours" else tensorflow_batches(folder, antialias)
    for _ in range(16):  # starts threads and workers, and fills what they read ahead
        next(batches)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Measures in turns and writes input_speed.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--tensorflow", help="a Python that has TensorFlow")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(time_one(arguments.one[0], Path(arguments.one[1]), arguments.seconds))
        return
    pythons = {"ours": sys.executable, "tf.data": arguments.tensorflow}
    rates = {name: [] for name, way in WAYS.items() if pythons[way[0]]}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        for _ in range(arguments.rounds):
            for name, found in rates.items():
                command = [pythons[WAYS[name][0]], "-m", "experiments.input_speed", "--out=unused"]
                command += [f"--seconds={arguments.seconds}", "--one", name, folder]
                result = subprocess.run(command, capture_output=True, text=True, env=environment)
                if result.returncode:
                    sys.exit(f"error: {name}: {result.stderr.strip().splitlines()[-1]}")
                found.append(float(result.stdout.split()[-1]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "input_speed.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pipeline", "images_per_sec", "lowest", "highest"])
        for name, found in rates.items():
            row = sorted(found)[len(found) // 2], min(found), max(found)
            writer.writerow([name, *(round(x) for x in row)])
            print(f"{name:30}{row[0]:8,.0f} images/s ({row[1]:,.0f} to {row[2]:,.0f})")
    for name in WAYS.keys() - rates.keys():
        print(f"{name:30}not measured")


if __name__ == "__main__":
    main()
