"""What the evaluation knows of an evaluator."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np


class Evaluator(Protocol):
    """A data set and the metrics of a task over it.

    Attributes:
      batches: iterated once per evaluation; rows whose "mask" is 0 only fill up the last batch.
      keys: the entries of a batch that `add` reads.
      metrics: names of the numbers in `result` that can mark the best checkpoint, higher is better.
    """

    batches: Iterable[dict[str, np.ndarray]]
    keys: tuple[str, ...]
    metrics: tuple[str, ...]

    def reset(self) -> None:
        """Forgets all batches."""

    def add(self, predictions: Any, batch: dict[str, np.ndarray]) -> None:
        """Takes what `Task.predict` gave for a batch, and the batch's entries `keys`."""

    def result(self) -> dict[str, float]:
        """The metrics over all batches so far."""

    def summary(self) -> str:
        """The result in words."""
