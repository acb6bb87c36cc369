"""Composes photographs with label maps and instance masks from the stamps of Tux Paint, a drawing program.

apt-get install tuxpaint-stamps-default    # Debian and Ubuntu, 161 MB
python -m acmix_jax.data.stamps --out=DIR

Up to six cut-out photographs of animals, plants and things lie on a piece of one of scikit-learn's two photographs. The
scenes are composed: their objects never were in one place. A fifth of the stamps, and other parts of the backgrounds,
make the test split. DIR gets images/, annotations/ and classes.csv (see label_maps.py), and boxes and masks in COCO's
format, annotations/instances_training.json and annotations/instances_validation.json.
"""

import argparse
import json
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from acmix_jax.config import local_path
from acmix_jax.data.classes import palette
from acmix_jax.data.compose import Scene, compose
from acmix_jax.data.label_maps import SPLITS
from acmix_jax.errors import UserError, one_line_errors, printable
from acmix_jax.run.progress import Progress

FOLDERS = {  # of the stamps of each class
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals",),
    "fish": ("animals/fish",),
    "insect": ("animals/insects",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "coin": ("symbols/money/canadian", "symbols/money/euro", "symbols/money/japanese", "symbols/money/us"),
    "instrument": ("hobbies/music",),
    "tool": ("household/tools",),
}
_NO_PHOTOGRAPHS = {"cartoon", "plastic", "toys"}  # names of folders below
_SHAPES = ((128, 192), (192, 128))  # height and width of a scene
_SIDES = (40, 88)  # longer side of a stamp in it, in pixels
_BACKGROUNDS = {  # top, bottom, left, right of parts of the photographs; the large flower is in none
    "train": {"china.jpg": (0, 427, 0, 400), "flower.jpg": (0, 427, 0, 160)},
    "test": {"china.jpg": (0, 427, 400, 640), "flower.jpg": (0, 380, 460, 640)},
}


def read_stamps(directory: Path) -> dict[str, list[list[Image.Image]]]:
    """Reads the stamps of each split and class.

    Drawings, silhouettes and mirrored copies are left out. Of each class, every fifth stamp belongs to the test split.

    Args:
      directory: Tux Paint's stamps, such as /usr/share/tuxpaint/stamps.

    Returns:
      For "train" and "test", a list for each class in the order of FOLDERS; RGBA without empty margins, at most 192
      pixels long.

    Raises:
      UserError: a class has less than 5 stamps.
    """
    stamps = {"train": [], "test": []}
    for name, folders in FOLDERS.items():
        paths = [path for folder in folders for path in sorted((directory / folder).rglob("*.png"))]
        photographs = [path for path in paths if not _NO_PHOTOGRAPHS & set(path.parts)]
        found = [_read_stamp(path) for path in photographs if not path.stem.endswith("_mirror")]
        found = [stamp for stamp in found if stamp.getcolors(64) is None]  # more than 64 colours: no silhouette
        if len(found) < 5:
            raise UserError(
                f"{len(found)} stamps of class {name} in {printable(str(directory))}; on Debian, apt-get install "
                "tuxpaint-stamps-default puts them into /usr/share/tuxpaint/stamps; elsewhere, set --stamps=FOLDER"
            )
        stamps["test"].append(found[2::5])
        stamps["train"].append([stamp for i, stamp in enumerate(found) if i % 5 != 2])
    return stamps


def _read_stamp(path):
    with Image.open(path) as file:
        stamp = file.convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    stamp.thumbnail((192, 192))
    return stamp


def compose_scene(stamps: list[list[Image.Image]], split: str, rng: np.random.Generator) -> Scene:
    """Composes a scene of 128 x 192 or 192 x 128 pixels; its labels are those of classes.csv, from 1 on."""
    shape, cutouts = _SHAPES[rng.integers(2)], []
    for index in rng.integers(0, len(stamps), rng.integers(4, 7)):  # all classes have equal chances
        stamp = stamps[index][rng.integers(len(stamps[index]))]
        cutouts.append((_cutout(stamp, rng), int(index) + 1))
    return compose(_background(split, shape, rng), cutouts, rng, largest_overlap=0.3)


def _cutout(stamp, rng):
    """A stamp at a random size, mirrored at random, `[h, w, 4]`."""
    side = rng.uniform(*_SIDES)
    size = [max(1, round(length * side / max(stamp.size))) for length in stamp.size]
    # With premultiplied alpha, as the colors of transparent pixels would shine through at the edges.
    resized = stamp.convert("RGBa").resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    return (np.asarray(resized) / np.float32([1, 1, 1, 255]))[:, :: rng.choice([-1, 1])]


def _background(split, shape, rng):
    """A piece of a photograph, mirrored at random, uint8 `[*shape, 3]`."""
    name, (top, bottom, left, right) = list(_BACKGROUNDS[split].items())[rng.integers(2)]
    part = _photograph(name)[top:bottom, left:right]
    scale = rng.uniform(0.6, 1) * min(part.shape[0] / shape[0], part.shape[1] / shape[1])
    height, width = (int(scale * side) for side in shape)
    top, left = rng.integers(0, [part.shape[0] - height + 1, part.shape[1] - width + 1])
    piece = Image.fromarray(part[top : top + height, left : left + width]).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(piece)[:, :: rng.choice([-1, 1])]


@cache
def _photograph(name):
    from sklearn.datasets import load_sample_image  # 2 s of import

    return load_sample_image(name)


def write(out: Path, stamps: Path, train: int, test: int, seed: int) -> str:
    """Writes that many scenes of each split, or nothing at all; returns a summary.

    Raises:
      UserError: `out` is not empty or cannot be written, or there are no stamps.
    """
    found, shown = read_stamps(stamps), printable(str(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{shown} is there already; choose another --out, or remove it")
    progress, done = Progress(train + test, 0, batch_size=1, unit="scene"), 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as holder:
            partial = Path(holder) / "scenes"
            for number, (split, count) in enumerate({"train": train, "test": test}.items()):
                for kind in ("images", "annotations"):
                    (partial / kind / SPLITS[split]).mkdir(parents=True)
                instances = _Instances()
                for index in range(count):
                    scene = compose_scene(found[split], split, np.random.default_rng((seed, number, index)))
                    instances.add(f"{index:05d}.jpg", scene)
                    path = Path(SPLITS[split]) / f"{index:05d}"
                    Image.fromarray(scene.image).save(partial / "images" / path.with_suffix(".jpg"), quality=95)
                    Image.fromarray(scene.label_map).save(partial / "annotations" / path.with_suffix(".png"))
                    done += 1
                    if done % 100 == 0:
                        progress.update(done, progress.rate(done), split)
                (partial / "annotations" / f"instances_{SPLITS[split]}.json").write_text(instances.to_json())
            (partial / "classes.csv").write_text(_classes_csv())
            partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write to {shown} ({error.strerror}); choose another --out") from error
    return f"{train:,} training and {test:,} test scenes are in {shown}; set --config.data.dir to it"


def _classes_csv():
    names = ["background", *FOLDERS]
    rows = [f"{name},#{bytes(color).hex()}" for name, color in zip(names, palette(names).tolist(), strict=True)]
    return "\n".join(["name,color", *rows]) + "\n"


class _Instances:
    """A file of annotations in COCO's format."""

    def __init__(self):
        self._images, self._annotations = [], []

    def add(self, name, scene):
        height, width = scene.label_map.shape
        image = {"id": len(self._images) + 1, "file_name": name, "height": height, "width": width}
        self._images.append(image)
        for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
            left, top, right, bottom = box
            self._annotations.append({
                "id": len(self._annotations) + 1, "image_id": image["id"], "category_id": label, "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": int(mask.sum()),
                "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
            })  # fmt: skip

    def to_json(self):
        categories = [{"id": label, "name": name} for label, name in enumerate(FOLDERS, 1)]
        return json.dumps({"images": self._images, "annotations": self._annotations, "categories": categories})


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run-length code of a mask bool `[H, W]`: of zeros, ones, zeros, ..., down the columns."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0).tolist()


def main() -> None:
    """Composes the scenes that the arguments describe; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="acmix_jax.data.stamps", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, type=local_path, help="folder to write")
    parser.add_argument("--stamps", type=local_path, default="/usr/share/tuxpaint/stamps", help="Tux Paint's stamps")
    parser.add_argument("--train", type=int, default=2000, help="training scenes")
    parser.add_argument("--test", type=int, default=400, help="test scenes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with one_line_errors():
        if min(arguments.train, arguments.test) < 1 or arguments.seed < 0:
            raise UserError("--train and --test must be at least 1, and --seed at least 0")
        try:
            print(write(**vars(arguments)))
        except KeyboardInterrupt:
            sys.exit("stopped; nothing is written")


if __name__ == "__main__":
    main()
