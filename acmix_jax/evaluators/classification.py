"""Top-1 and top-5 accuracy over a whole data set."""

from collections.abc import Iterable
from typing import Any

import numpy as np


class ClassificationEvaluator:
    """Counts correct predictions; rows whose "mask" is 0 do not count.

    Attributes:
      batches: of the evaluation set, with "label" `[B]` and "mask" `[B]`; iterated once per evaluation.
    """

    keys = ("label", "mask")
    metrics = ("top1", "top5")
    main_metric = "top1"

    def __init__(self, source: Any, batches: Iterable[dict[str, np.ndarray]]):
        """Takes the batches; the source has nothing to add."""
        self.batches = batches
        self.reset()

    def reset(self) -> None:
        self._top1 = self._top5 = self._examples = 0

    def add(self, logits: np.ndarray, batch: dict[str, np.ndarray]) -> None:
        """Takes logits `[B, num_classes]`; among equal logits the lower class ranks first."""
        real = batch["mask"] > 0
        logits, labels = logits[real], batch["label"][real]
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
        hits = best == labels[:, None]
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits.sum())
        self._examples += len(labels)

    def result(self) -> dict[str, float]:
        """Top-1 and top-5 in per cent, and the number of examples."""
        return {
            "top1": 100 * self._top1 / self._examples,
            "top5": 100 * self._top5 / self._examples,
            "examples": self._examples,
        }

    def summary(self) -> str:
        """The result in one line."""
        result = self.result()
        return f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of {result['examples']} images"

    def report(self) -> str:
        """The same line."""
        return self.summary()
