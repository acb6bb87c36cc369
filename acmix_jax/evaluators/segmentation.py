"""Intersection over union over a whole data set."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from acmix_jax.errors import UserError


class SegmentationEvaluator:
    """Sums the pixels of each class; rows whose "mask" is 0 do not count.

    A class that neither the labels nor the predictions have is left out of the means (mmseg's mean_iou).

    Attributes:
      batches: of the evaluation set; iterated once per evaluation.
    """

    keys = ("index", "mask")
    metrics = ("miou", "macc", "aacc")
    main_metric = "miou"

    def __init__(self, source: Any, batches: Iterable[dict[str, np.ndarray]]):
        """Takes the names of the classes from the source."""
        self.batches, self._names = batches, source.classes
        self.reset()

    def reset(self) -> None:
        self._counts, self._scores = np.zeros((3, len(self._names)), np.int64), {}

    def add(self, counts: np.ndarray, batch: dict[str, np.ndarray]) -> None:
        """Takes int `[B, 3, K]`: pixels of each class that are right, predicted and labelled, without ignored ones."""
        real = batch["mask"] > 0
        counts = counts[real].astype(np.int64)
        self._counts = self._counts + counts.sum(axis=0)
        for index, image in zip(batch["index"][real].tolist(), counts, strict=True):
            self._scores[index] = float(np.nanmean(_iou(image))) if image.any() else np.nan

    def ranking(self) -> list[tuple[int, float]]:
        """Index and mean IoU (0 to 1) over the classes present of each image, the worst first; unlabelled ones not."""
        return sorted(((i, s) for i, s in self._scores.items() if not np.isnan(s)), key=lambda pair: pair[1])

    def result(self) -> dict[str, float]:
        """Mean IoU, mean accuracy, accuracy of all pixels and each class's IoU in per cent; the number of images.

        The class's own numbers are named iou/NAME; those of a class that is nowhere are left out.

        Raises:
          UserError: no pixel has a label.
        """
        right, _, labelled = self._counts
        if not labelled.any():
            raise UserError("no pixel of the evaluation set has a label; see --config.data.ignore_label")
        with np.errstate(invalid="ignore"):
            iou, accuracy, total = _iou(self._counts), right / labelled, right.sum() / labelled.sum()
        named = {f"iou/{name}": 100 * float(x) for name, x in zip(self._names, iou, strict=True) if not np.isnan(x)}
        means = {"miou": np.nanmean(iou), "macc": np.nanmean(accuracy), "aacc": total}
        return {name: 100 * float(x) for name, x in means.items()} | {"images": len(self._scores)} | named

    def summary(self) -> str:
        """The means in one line."""
        result = self.result()
        means = f"mIoU {result['miou']:.2f} %, mAcc {result['macc']:.2f} %, aAcc {result['aacc']:.2f} %"
        return f"{means} of {result['images']:,} images"

    def report(self) -> str:
        """The means, and a table of the classes, the worst first."""
        named = {name.removeprefix("iou/"): x for name, x in self.result().items() if name.startswith("iou/")}
        rows = [f"  {x:6.2f} %  {name}" for name, x in sorted(named.items(), key=lambda item: item[1])]
        return "\n".join([f"{self.summary()}; IoU of each class:", *rows])


def _iou(counts):
    right, predicted, labelled = counts
    with np.errstate(invalid="ignore"):
        return right / (predicted + labelled - right)
