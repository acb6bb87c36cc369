"""Composes pictures from cut-outs on a background, with what dense tasks learn: label map, boxes and instance masks."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_TRIES = 20  # places drawn for a cut-out, before it is left out


class Scene(NamedTuple):
    """A composed picture with N objects, in the order in which they were laid: a later one covers an earlier one."""

    image: np.ndarray  # uint8 [H, W, 3]
    label_map: np.ndarray  # uint8 [H, W]; 0 is background
    boxes: np.ndarray  # float32 [N, 4]: left, top, right, bottom of the visible pixels, ends exclusive
    labels: np.ndarray  # int32 [N], as in the label map
    masks: np.ndarray  # bool [N, H, W], the visible pixels


def compose(
    background: np.ndarray,
    cutouts: Iterable[tuple[np.ndarray, int]],
    rng: np.random.Generator,
    largest_overlap: float,
    noise: float = 0.0,
) -> Scene:
    """Lays cut-outs at random places.

    A pixel belongs to the uppermost cut-out whose opacity there is at least a half, or else to the background.

    Args:
      background: `[H, W, 3]`, values from 0 to 255.
      cutouts: pairs of `[h, w, 4]` (red, green, blue from 0 to 255, opacity from 0 to 1) and a label of 1 or more. Each
        fits into the background. One that finds no place is left out.
      rng: draws the places and the noise.
      largest_overlap: of the rectangles of any two cut-outs, as a part of the smaller one.
      noise: standard deviation of what is added to each value.
    """
    image, owner = background.astype(np.float32), np.full(background.shape[:2], -1)
    rectangles, labels = np.zeros((0, 4), int), []  # top, left, bottom, right
    for cutout, label in cutouts:
        rectangle = _free_rectangle(rectangles, cutout.shape, owner.shape, largest_overlap, rng)
        if rectangle is not None:
            top, left, bottom, right = rectangle
            opacity = cutout[..., 3:]
            image[top:bottom, left:right] += opacity * (cutout[..., :3] - image[top:bottom, left:right])
            owner[top:bottom, left:right][opacity[..., 0] >= 0.5] = len(labels)
            rectangles = np.vstack([rectangles, rectangle])
            labels.append(label)
    if noise:
        image += rng.normal(0, noise, image.shape)
    seen = [i for i in range(len(labels)) if (owner == i).any()]
    masks = owner == np.array(seen, int)[:, None, None]
    label_map = np.array([*labels, 0], np.uint8)[owner]  # -1: the last one
    image = np.clip(image.round(), 0, 255).astype(np.uint8)
    return Scene(image, label_map, boxes_of(masks), np.array([labels[i] for i in seen], np.int32), masks)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Boxes float32 `[N, 4]` (left, top, right, bottom, ends exclusive) of masks bool `[N, H, W]`, none empty."""
    columns, rows = masks.any(axis=1), masks.any(axis=2)
    first = [line.argmax(axis=1) for line in (columns, rows)]
    last = [line.shape[1] - line[:, ::-1].argmax(axis=1) for line in (columns, rows)]
    return np.stack([*first, *last], axis=1).astype(np.float32)


def _free_rectangle(others, shape, outer, largest_overlap, rng):
    """Top, left, bottom, right of the first of some random places that overlaps the others little; None without one."""
    places = rng.integers(0, [outer[0] - shape[0] + 1, outer[1] - shape[1] + 1], (_TRIES, 2))
    rectangles = np.concatenate([places, places + shape[:2]], axis=1)
    begin = np.maximum(others[:, :2], rectangles[:, None, :2])  # [tries, others, 2]
    end = np.minimum(others[:, 2:], rectangles[:, None, 2:])
    overlap = (end - begin).clip(0).prod(axis=2)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    fits = (overlap <= largest_overlap * np.minimum(areas, shape[0] * shape[1])).all(axis=1)
    return rectangles[fits.argmax()] if fits.any() else None
