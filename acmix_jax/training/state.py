"""The state that a train step reads and writes, and a checkpoint holds."""

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
      average: moving average of the parameters; None if the run has none.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for `model.apply`, with the averaged parameters if there are any."""
        return {"params": self.params if self.average is None else self.average, **self.model_state}
