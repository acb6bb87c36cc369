"""Image classification with label smoothing."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from acmix_jax.analysis import alpha_beta, top_classes
from acmix_jax.data import classification
from acmix_jax.data.pipeline import Change
from acmix_jax.errors import UserError
from acmix_jax.evaluators.base import Evaluator
from acmix_jax.models import create_model, model_fields
from acmix_jax.ops import mixing
from acmix_jax.tasks.base import Batch, Variables, normalise


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float, over_all: bool = False) -> jax.Array:
    """Targets float32 `[B, K]` from int `[B]`, of which a fraction s is spread.

    Each wrong class gets s / (K - 1) (ResNet and SAN, as released); or, `over_all`, each class s / K (PVT and Swin).
    """
    each = smoothing / (num_classes if over_all else num_classes - 1)
    return jax.nn.one_hot(labels, num_classes) * (1 - smoothing - (0 if over_all else each)) + each


@dataclass(frozen=True)
class Classification:
    """Takes batches of "image" uint8 `[B, H, W, C]` and "label" int32 `[B]`.

    Attributes:
      model: images float `[B, H, W, C]` to logits float32 `[B, num_classes]`.
      label_smoothing, label_smoothing_over_all: see `smooth_labels`.
      random_erasing, mixup, cutmix: see ops/mixing.py; 0 for none.
      batch_norm_groups: parts of a training batch that BatchNorm normalises separately.
      mean, std: of the pixels, one or C values, on the scale from 0 to 1.
      change: see data/classification.py.
    """

    model: nn.Module
    label_smoothing: float
    label_smoothing_over_all: bool
    random_erasing: float
    mixup: float
    cutmix: float
    batch_norm_groups: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    change: Change

    @classmethod
    def from_config(cls, config, backend: str | None = None) -> "Classification":
        model = create_model(config.model, config.data.num_classes, **model_fields(config, backend))
        return cls(
            model,
            config.label_smoothing,
            config.label_smoothing_over_all,
            config.random_erasing,
            config.mixup,
            config.cutmix,
            config.batch_norm_groups,
            mean=tuple(config.data.mean),
            std=tuple(config.data.std),
            change=partial(classification.change, config.data),
        )

    def view(self, source: Any, train: bool) -> Any:
        """The source itself; a warning, once, says if it has fewer classes than the model.

        Raises:
          UserError: it has less than two classes, or more than the model.
        """
        if self.model.num_classes < 2:
            raise UserError("the data has one class alone, which leaves nothing to learn; for folders, set "
                            "--config.data.dir to the one that holds train/CLASS/")  # fmt: skip
        difference = f"the data has {source.num_classes} classes, the model {self.model.num_classes}"
        hint = f"set --config.data.num_classes={source.num_classes}"
        if source.num_classes > self.model.num_classes:
            raise UserError(f"{difference}; {hint}")
        if source.num_classes < self.model.num_classes:
            _warn(f"{difference}: some outputs are never right; {hint} in a new --workdir, or leave it so")
        return source

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, self.normalise(batch["image"]), train=False)

    def loss(self, variables: Variables, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        images = self.normalise(batch["image"])
        targets = smooth_labels(
            batch["label"], self.model.num_classes, self.label_smoothing, self.label_smoothing_over_all
        )
        erasing, mixing_key = jax.random.split(rngs["augment"])
        if self.random_erasing:
            images = mixing.erase(images, erasing, self.random_erasing)
        if self.mixup or self.cutmix:
            images, targets = mixing.mix(images, targets, mixing_key, self.mixup, self.cutmix)
        logits, changed = self._train(variables, images, rngs["dropout"])
        loss = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
        correct = (logits.argmax(axis=-1) == batch["label"]).mean()
        return loss, ({"loss": loss, "top1": 100 * correct}, changed)

    def predict(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits float32 `[B, num_classes]`."""
        return self.model.apply(variables, self.normalise(batch["image"]), train=False)

    def show(
        self, variables: Variables, examples: Iterable[tuple[str, dict]], batch_size: int, classes: Sequence[str],
        colors: Sequence[str] | None, out: Path,
    ) -> list[Path]:  # fmt: skip
        """Writes predictions.csv, with the five best classes of each image, and a contact sheet, predictions.png."""
        probabilities = jax.jit(lambda variables, images: jax.nn.softmax(self.predict(variables, {"image": images})))
        images = ((name, example["image"]) for name, example in examples)
        return top_classes.write(images, partial(probabilities, variables), batch_size, classes, out)

    def review(self, variables: Variables, evaluator: Evaluator, source: Any, out: Path) -> list[Path]:
        """Draws nothing."""
        return []

    def scalars(self, params: Any) -> dict[str, float]:
        """Alpha and beta of each ACmix layer."""
        return alpha_beta.scalars(params)

    def _train(self, variables, images, key):
        """Logits, and the running statistics updated by the batch."""

        def apply_group(images, key):
            return self.model.apply(variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

        if self.batch_norm_groups == 1:
            return apply_group(images, key)
        groups = images.reshape(self.batch_norm_groups, -1, *images.shape[1:])
        logits, changed = jax.vmap(apply_group)(groups, jax.random.split(key, self.batch_norm_groups))
        return logits.reshape(len(images), -1), jax.tree.map(lambda x: x.mean(axis=0), changed)

    def normalise(self, image: jax.Array) -> jax.Array:
        """The model's input, float32, from uint8 `[B, H, W, C]`."""
        return normalise(image, self.mean, self.std)


@cache
def _warn(message):
    print(f"warning: {message}", file=sys.stderr)
