"""The interface between an evaluator and the evaluation."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np


class Evaluator(Protocol):
    """The metrics of a task over a data set.

    Attributes:
      batches: iterated once per evaluation; rows whose "mask" is 0 only pad a batch.
      keys: the entries of a batch that `add` reads.
      metrics: names of the numbers in `result` that can mark the best checkpoint; higher is better.
      main_metric: the one that marks it by default.
    """

    batches: Iterable[dict[str, np.ndarray]]
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    main_metric: str

    def __init__(self, source: Any, batches: Iterable[dict[str, np.ndarray]]):
        """Takes the data set, for facts that are not in its batches, and the batches of all of its examples."""

    def reset(self) -> None:
        """Forgets all batches."""

    def add(self, predictions: Any, batch: dict[str, np.ndarray]) -> None:
        """Takes the result of `Task.predict` for a batch, and the batch's entries `keys`."""

    def result(self) -> dict[str, float]:
        """The metrics over all batches so far."""

    def summary(self) -> str:
        """The result in one line."""

    def report(self) -> str:
        """The whole result as text."""
