"""Images per second of the input pipeline, on one core and on two, against tf.data's decode-and-crop.

python -m experiments.input_speed --out=runs/input_speed --tensorflow=PYTHON

PYTHON is an interpreter with TensorFlow, in an environment of its own; without it those rows are missing. Each pipeline
runs in a process of its own, on the first one or two cores, and all take turns. The images are crops of 500 x 375
pixels from scikit-learn's photographs, as JPEG; each becomes a random crop at 224 x 224 pixels with a random flip. Ours
is anti-aliased, as in Pillow and torchvision; tf.data is measured both ways.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

BATCH, SIZE = 64, 224
PIPELINES = {  # name: (library, anti-aliased, cores)
    "acmix_jax, 1 core": ("ours", True, 1),
    "acmix_jax, 2 cores": ("ours", True, 2),
    "tf.data, 1 core": ("tf.data", False, 1),
    "tf.data anti-aliased, 1 core": ("tf.data", True, 1),
}


def write_photographs(folder: Path, count: int = 192) -> None:
    """Writes JPEG files of 500 x 375 pixels to folder/train/photo, and one to folder/val/photo."""
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
    """Batches of the ResNet recipe, made by one thread or by two worker processes."""
    from absl import flags

    from acmix_jax.data import classification, pipeline
    from configs import imagenet

    flags.FLAGS(sys.argv[:1])  # Grain reads flags
    config = imagenet.get_config("acmix_resnet50").data
    config.update({"dir": str(folder), "workers": 0 if cores == 1 else cores, "threads": 1})
    change = partial(classification.change, config)
    return pipeline.train_batches(pipeline.open_source(config, "train"), config, change, BATCH, seed=0)


def tensorflow_batches(folder: Path, antialias: bool) -> Iterator:
    """Batches of the usual tf.data pipeline for ImageNet, bilinear."""
    import tensorflow as tf

    def example(name):
        data = tf.io.read_file(name)
        offset, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data), tf.zeros([1, 0, 4]), area_range=(0.08, 1.0), max_attempts=10,
            aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        image = tf.io.decode_and_crop_jpeg(data, tf.concat([offset[:2], size[:2]], 0), channels=3)
        image = tf.image.resize(image, [SIZE, SIZE], antialias=antialias)
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    names = sorted(str(path) for path in folder.glob("train/*/*.jpg"))
    return iter(tf.data.Dataset.from_tensor_slices(names).repeat().map(example).batch(BATCH).prefetch(2))


def time_one(name: str, folder: Path, seconds: float) -> float:
    """Measures images per second of one pipeline, in this process."""
    library, antialias, cores = PIPELINES[name]
    os.sched_setaffinity(0, range(cores))
    batches = our_batches(folder, cores) if library == "ours" else tensorflow_batches(folder, antialias)
    for _ in range(16):  # starts threads and workers, and fills their read-ahead buffers
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of each pipeline in each round, each measured in a process of its own.

    Raises:
      UserError: a process failed; has the last line of its output.
    """
    from acmix_jax.errors import UserError

    pythons = {"ours": sys.executable, "tf.data": arguments.tensorflow}
    rates = {name: [] for name, (library, *_) in PIPELINES.items() if pythons[library]}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        for _ in range(arguments.rounds):
            for name in rates:
                command = [pythons[PIPELINES[name][0]], "-m", "experiments.input_speed", "--out=unused"]
                command += [f"--seconds={arguments.seconds}", "--one", name, folder]
                result = subprocess.run(command, capture_output=True, text=True, env=environment)
                if result.returncode:
                    reason = (result.stderr.strip().splitlines() or ["no message"])[-1][:200]
                    raise UserError(f"{name} ended with code {result.returncode}: {reason}")
                rates[name].append(float(result.stdout.split()[-1]))
    return rates


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the table")
    parser.add_argument("--tensorflow", help="a Python interpreter with TensorFlow")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--one", nargs=2, metavar=("PIPELINE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:  # in an interpreter that may have TensorFlow only
        print(time_one(arguments.one[0], Path(arguments.one[1]), arguments.seconds))
        return
    from acmix_jax.config import expand_path
    from acmix_jax.errors import one_line_errors

    with one_line_errors():
        write(Path(expand_path(arguments.out)), measure(arguments))


def write(folder: Path, rates: dict[str, list[float]]) -> None:
    """Writes input_speed.csv and record.json, and prints the table."""
    from experiments import results

    rows = []
    for name, values in rates.items():
        median, low, high = (round(x) for x in (sorted(values)[len(values) // 2], min(values), max(values)))
        rows.append({"pipeline": name, "images_per_sec": median, "lowest": low, "highest": high})
        print(f"{name:30}{median:8,} images/s ({low:,} to {high:,})")
    for name in PIPELINES.keys() - rates.keys():
        print(f"{name:30}not measured")
    folder.mkdir(parents=True, exist_ok=True)
    results.write_table(folder / "input_speed.csv", rows)
    results.write_record(folder, __doc__, "measured here")


if __name__ == "__main__":
    main()
