"""Changes an example of semantic segmentation: label rules, resizing, cropping and flipping of image and label map.

In a batch, labels are 0 to K - 1, and 255 is ignored. Sizes and rules are those of mmseg; images are resized with
anti-aliasing, unlike there, in one step, and labels are taken from the pixel at the same place.
"""

import math
from typing import Any

import numpy as np

from acmix_jax.data import augment, metadata, photos
from acmix_jax.data.photos import CorruptImage, Photo
from acmix_jax.errors import first_few
from acmix_jax.ops.losses import IGNORED

CANVAS = 256  # pixels; sides of a resized image's labels are multiples of it, so that few shapes are compiled
SAMPLE = 200  # label maps to count the classes' pixels in
_CROPS = 10  # tries to meet max_class_share


def change(config: Any, example: dict, rng: np.random.Generator | None) -> dict:
    """The example as the network gets it, before the pixels are normalised.

    Args:
      config: the config's `data`. With `short_side` 0, images keep their size; with `image_size` 0 they are not cropped
        or padded either.
      example: {"image": Photo or uint8 `[H, W, 3]`, "label_map": Photo or uint8 `[H, W]`, as stored}; without a
        label map for a prediction.
      rng: of the augmentation; None for evaluation.

    Returns:
      In training {"image": uint8 `[S, S, 3]`, "label": uint8 `[S, S]`, "size": int32 `[2]`}, where S is `image_size`,
      and "size" height and width of the real part; the rest, at the bottom and at the right, is padding.
      In evaluation {"image": uint8 `[H', W', 3]`, resized, "label": uint8 `[Hc, Wc]`, the label map at its own size,
      for resized images padded to multiples of 256, "full_size": int32 `[2]`, its height and width}; no "label" without
      a label map.

    Raises:
      CorruptImage: the image or the label map cannot be decoded, their sizes differ, or a label is beyond the classes.
    """
    image = example["image"]
    if "label_map" not in example:
        return _for_evaluation(config, image, None)
    labels = load_labels(config, example, config.num_classes or IGNORED)
    _check_size(example, labels)
    return _for_evaluation(config, image, labels) if rng is None else _for_training(config, image, labels, rng)


def _for_training(config, image, labels, rng):
    size = labels.shape
    if config.short_side:
        ratio = rng.uniform(*config.scale_range)
        size = rescaled(size, int(ratio * config.short_side), int(ratio * config.long_side))
    full = (config.image_size, config.image_size) if config.image_size else size
    part = _crop(config, labels, size, full, rng)
    image, labels = augment.resize_part(image, size, part, config.interpolation), _nearest(labels, size, part)
    if config.flip and rng.random() < 0.5:
        image, labels = augment.mirror(image), labels[:, ::-1]
    size = np.array(labels.shape, np.int32)
    return {"image": _pad(image, full, 0), "label": _pad(labels, full, IGNORED), "size": size}


def _for_evaluation(config, image, labels):
    full = augment.size_of(image)
    height, width, *canvas = eval_group(config, full)
    image = augment.resize_part(image, (height, width), (0, 0, height, width), config.interpolation)
    example = {"image": image, "full_size": np.array(full, np.int32)}
    return example if labels is None else {**example, "label": _pad(labels, canvas, IGNORED)}


def eval_group(config: Any, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Shapes of an evaluated example, which all examples of a batch have in common.

    The image is resized to fit into `short_side` and `long_side`, and to multiples of `size_divisor` above that (PVT's
    AlignResize), which changes its aspect ratio; so the network gets no padding.

    Args:
      config: the config's `data`.
      size: height and width of the image.

    Returns:
      Height and width of the network's image, height and width of the label map with its padding.
    """
    if not config.short_side:
        return *size, *size
    fitted = rescaled(size, config.short_side, config.long_side)
    return *_rounded_up(fitted, max(1, config.size_divisor)), *_rounded_up(size, CANVAS)


def _rounded_up(size, divisor):
    return tuple(math.ceil(side / divisor) * divisor for side in size)


def rescaled(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio whose sides are at most `short` and `long`, rounded as in mmcv."""
    scale = min(long / max(size), short / min(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def load_labels(config: Any, example: dict, num_classes: int) -> np.ndarray:
    """Labels uint8 `[H, W]`, 0 to K - 1 or 255, from an example's label map as it is stored.

    The label `ignore_label` becomes 255. With `zero_is_ignored`, so does 0, and all others move down by one.

    Raises:
      CorruptImage: the label map cannot be decoded, or has a label of `num_classes` or more, after these rules.
    """
    stored = example["label_map"]
    labels = photos.decode_labels(stored) if isinstance(stored, Photo) else stored
    rule = np.arange(256) - bool(config.zero_is_ignored)
    rule[config.ignore_label] = -1  # 255 as uint8
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    if (rule[found] >= num_classes).any():
        beyond = first_few(map(str, found[rule[found] >= num_classes]))
        raise CorruptImage(
            f"{_name(stored)} has labels beyond the {num_classes} classes ({beyond}); name more classes, or see "
            "--config.data.ignore_label and zero_is_ignored"
        )
    return np.take(rule.astype(np.uint8), labels)


def _check_size(example, labels):
    image, size = example["image"], augment.size_of(example["image"])
    if labels.shape != size:
        is_turned = isinstance(image, Photo) and (metadata.orientation(image.data) or 1) >= 5
        turned = ", once turned upright by its EXIF orientation" * is_turned
        (height, width), (own_height, own_width) = size, labels.shape
        raise CorruptImage(
            f"{_name(example['label_map'])} has {own_height}x{own_width} pixels, its image {height}x{width}{turned}"
        )


def _name(label_map):
    return f"label map {label_map.name}" if isinstance(label_map, Photo) else "a label map"


def _crop(config, labels, size, full, rng):
    """Top, left, height and width of a random crop, in which no class has too large a share if that can be had.

    Ten crops are drawn until one has two classes or more, and none with more than `max_class_share` of the pixels that
    are not ignored; an eleventh counts unchecked (mmseg's RandomCrop).
    """
    shape = [min(inner, outer) for inner, outer in zip(full, size, strict=True)]
    ends = [outer - inner + 1 for inner, outer in zip(shape, size, strict=True)]
    for _ in range(_CROPS if config.max_class_share < 1 and max(ends) > 1 else 0):
        part = *map(int, rng.integers(0, ends)), *shape
        counts = np.bincount(_nearest(labels, size, part).ravel(), minlength=256)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < config.max_class_share * counts.sum():
            return part
    return *map(int, rng.integers(0, ends)), *shape


def _nearest(labels, size, part):
    """The part (top, left, height, width) of the label map resized to `size`, by the pixels at the same place."""
    rows, columns = (
        ((np.arange(first, first + count) + 0.5) * old / new).astype(int)
        for first, count, old, new in zip(part[:2], part[2:], labels.shape, size, strict=True)
    )
    return labels[rows].take(columns, axis=1)


def _pad(array, size, value):
    """Adds rows at the bottom and columns at the right."""
    if array.shape[:2] == tuple(size):
        return np.ascontiguousarray(array)
    padded = np.full((*size, *array.shape[2:]), value, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def class_shares(config: Any, source: Any, limit: int = SAMPLE) -> tuple[np.ndarray, float]:
    """Each class's share of the pixels that are not ignored, and the share of ignored ones among all.

    Args:
      config: the config's `data`.
      source: examples with a "label_map".
      limit: largest number of examples to look at, spread evenly over the source. Damaged ones are passed over if the
        config says so.

    Returns:
      float64 `[source.num_classes]`, which sums to 1 (or to 0, if all is ignored), and a number from 0 to 1.

    Raises:
      CorruptImage: a label map cannot be decoded, or has a label beyond the classes of the source.
    """
    counts = np.zeros(256, np.int64)
    for index in np.linspace(0, len(source) - 1, min(limit, len(source))).round().astype(int).tolist():
        try:
            labels = load_labels(config, source[index], source.num_classes)
        except CorruptImage:
            if config.damaged == "fail":
                raise
        else:
            counts += np.bincount(labels.ravel(), minlength=256)
    labelled = counts[:IGNORED].sum()
    return counts[: source.num_classes] / max(labelled, 1), float(counts[IGNORED] / max(counts.sum(), 1))
