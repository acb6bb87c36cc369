"""Image classification with label smoothing."""

import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.analysis import alpha_beta
from acmix_jax.data import classification
from acmix_jax.data.pipeline import Change
from acmix_jax.errors import UserError
from acmix_jax.models import create_model, model_fields
from acmix_jax.ops import mixing
from acmix_jax.tasks.base import Batch, Variables


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

    def check_source(self, source: Any) -> None:
        """Raises a UserError for less than two classes, or more than the model has; warns, once, if there are fewer."""
        if self.model.num_classes < 2:
            raise UserError("the data has one class alone, which leaves nothing to learn; for folders, set "
                            "--config.data.dir to the one that holds train/CLASS/")  # fmt: skip
        difference = f"the data has {source.num_classes} classes, the model {self.model.num_classes}"
        hint = f"set --config.data.num_classes={source.num_classes}"
        if source.num_classes > self.model.num_classes:
            raise UserError(f"{difference}; {hint}")
        if source.num_classes < self.model.num_classes:
            _warn(f"{difference}: some outputs are never right; {hint} in a new --workdir, or leave it so")

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
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise UserError(
                    f"--config.data.{field}={values} has {len(values)} values, but the images have {image.shape[-1]} "
                    "channels; use 1 value, or one for each channel"
                )
        return (image.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)


@cache
def _warn(message):
    print(f"warning: {message}", file=sys.stderr)
