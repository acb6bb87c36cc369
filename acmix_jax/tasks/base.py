"""The interface between a task and the training loop."""

from typing import Any, Protocol

import flax.linen as nn
import jax

from acmix_jax.data.pipeline import Change

Batch = dict[str, jax.Array]
Variables = dict[str, Any]


class Task(Protocol):
    """A model with its loss; `init`, `loss` and `predict` are pure and run under jit.

    Attributes:
      model: the Linen module.
      change: makes the examples of a batch from those of a source; on the host, also in worker processes.
    """

    model: nn.Module
    change: Change

    def check_source(self, source: Any) -> None:
        """Raises a UserError if the examples of this source do not fit the task."""

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Fresh variables for batches of this shape."""

    def loss(self, variables: Variables, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        """Training loss, with (metrics by name, "loss" among them; changed collections, as batch_stats).

        Metrics named *_count are summed over the logged steps, all others averaged.
        """

    def predict(self, variables: Variables, batch: Batch) -> Any:
        """The input of the task's evaluator, for each row of the batch; small, as it goes to every host."""

    def scalars(self, params: Any) -> dict[str, float]:
        """Learned numbers to log beside the metrics; waits for the device."""
