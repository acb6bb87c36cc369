"""What the training loop knows of a task."""

from typing import Any, Protocol

import flax.linen as nn
import jax

Batch = dict[str, jax.Array]
Variables = dict[str, Any]


class Task(Protocol):
    """A model with its loss; all methods are pure and run under jit.

    Attributes:
      model: the Linen module.
    """

    model: nn.Module

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Fresh variables for batches of this shape."""

    def loss(self, variables: Variables, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        """Training loss, with (metrics by name, "loss" among them; changed collections, as batch_stats)."""

    def predict(self, variables: Variables, batch: Batch) -> Any:
        """What the task's evaluator takes, for each row of the batch."""
