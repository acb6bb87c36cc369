"""Everything that a training step reads and writes, and all that a checkpoint needs besides the data's place."""

from typing import Any

import flax
import jax


@flax.struct.dataclass
class TrainState:
    """The model and its optimizer after `step` updates.

    Attributes:
      step: int32 scalar.
      params: the learned parameters, float32.
      model_state: the other Flax collections, here {"batch_stats": ...}.
      opt_state: state of the optax optimizer.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, **self.model_state}
