"""The interface between a task and the training loop."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.data.pipeline import Change
from acmix_jax.errors import UserError
from acmix_jax.evaluators.base import Evaluator

Batch = dict[str, jax.Array]
Variables = dict[str, Any]


def normalise(image: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """The model's input, float32, from pixels `[B, H, W, C]` on a scale from 0 to 255.

    Args:
      mean, std: of the pixels on a scale from 0 to 1, one value or C.

    Raises:
      UserError: another number of values.
    """
    for field, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, image.shape[-1]):
            raise UserError(
                f"--config.data.{field}={tuple(values)} has {len(values)} values, but the images have "
                f"{image.shape[-1]} channels; use 1 value, or one for each channel"
            )
    return (image.astype(jnp.float32) / 255 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


class Task(Protocol):
    """A model with its loss; `init`, `loss` and `predict` are pure and run under jit.

    Attributes:
      model: the Linen module.
      change: makes the examples of a batch from those of a source; on the host, also in worker processes.
    """

    model: nn.Module
    change: Change

    def view(self, source: Any, train: bool) -> Any:
        """The source as the pipeline takes it: grouped by shape if its images have several (data/order.py).

        Raises:
          UserError: its examples do not fit the task.
        """

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Fresh variables for batches of this shape."""

    def loss(self, variables: Variables, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        """Training loss, with (metrics by name, "loss" among them; changed collections, as batch_stats).

        Metrics named *_count are summed over the logged steps, all others averaged.
        """

    def predict(self, variables: Variables, batch: Batch) -> Any:
        """The input of the task's evaluator, for each row of the batch; small, as it goes to every host."""

    def show(
        self, variables: Variables, examples: Iterable[tuple[str, dict]], batch_size: int, classes: Sequence[str],
        colors: Sequence[str] | None, out: Path,
    ) -> list[Path]:  # fmt: skip
        """Writes a table and pictures of predictions into the folder `out`; returns what was written.

        Args:
          examples: names of images and their examples from `change`, without annotations.
          batch_size: largest number of images at once.
          classes: names of the classes.
          colors: theirs, as #rrggbb; None for any.
        """

    def review(self, variables: Variables, evaluator: Evaluator, source: Any, out: Path) -> list[Path]:
        """Draws images that an evaluation found good or bad into the folder `out`; returns what was written."""

    def scalars(self, params: Any) -> dict[str, float]:
        """Learned numbers to log beside the metrics; waits for the device."""
