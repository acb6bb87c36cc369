"""Top-1 and top-5 accuracy over a whole data set."""

from collections.abc import Iterable

import numpy as np


class ClassificationEvaluator:
    """Counts right answers; rows whose "mask" is 0 do not count.

    Attributes:
      batches: the evaluation set, with "label" `[B]` and "mask" `[B]`; iterated once per evaluation.
    """

    keys = ("label", "mask")
    metrics = ("top1", "top5")

    def __init__(self, batches: Iterable[dict[str, np.ndarray]]):
        self.batches = batches
        self.reset()

    def reset(self) -> None:
        self._top1 = self._top5 = self._examples = 0

    def add(self, logits: np.ndarray, batch: dict[str, np.ndarray]) -> None:
        """Takes logits `[B, num_classes]`; of equal logits the lower class counts as the more probable one."""
        real = batch["mask"] > 0
        logits, labels = logits[real], batch["label"][real]
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
        hits = best == labels[:, None]
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits.sum())
        self._examples += len(labels)

    def result(self) -> dict[str, float]:
        """Top-1 and top-5 in per cent, and the number of examples they were counted over."""
        return {
            "top1": 100 * self._top1 / self._examples,
            "top5": 100 * self._top5 / self._examples,
            "examples": self._examples,
        }

    def summary(self) -> str:
        """The result in words."""
        result = self.result()
        return f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of {result['examples']} images"
