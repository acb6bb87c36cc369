"""Semantic segmentation with a decode head and, where the head has one, an auxiliary loss."""

import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from acmix_jax.analysis import alpha_beta, label_maps
from acmix_jax.data import segmentation
from acmix_jax.data.classes import palette
from acmix_jax.data.order import Grouped
from acmix_jax.data.pipeline import Change
from acmix_jax.devices import processes
from acmix_jax.errors import UserError, first_few, printable
from acmix_jax.evaluators.base import Evaluator
from acmix_jax.models import create_segmenter, model_fields
from acmix_jax.ops.interpolate import bilinear, bilinear_onto
from acmix_jax.ops.losses import IGNORED, pixel_cross_entropy
from acmix_jax.ops.photometric import distort
from acmix_jax.tasks.base import Batch, Variables, normalise

SHOWN = 4  # worst and best images of a review


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Takes batches as data/segmentation.py makes them.

    Attributes:
      model: images float `[B, H, W, 3]` to logits float32 `[B, H / s, W / s, K]`, s the stride of c2.
      data: the config's `data`.
      photometric: distort the colours of training images, see ops/photometric.py.
      auxiliary_weight: factor of the auxiliary losses.
      test_scales: sizes at which an image is evaluated, as factors; the probabilities are averaged.
      test_flip: evaluate the mirrored image, too.
      change: see data/segmentation.py.
    """

    model: nn.Module
    data: Any
    photometric: bool
    auxiliary_weight: float
    test_scales: tuple[float, ...]
    test_flip: bool
    change: Change

    @classmethod
    def from_config(cls, config, backend: str | None = None) -> "Segmentation":
        if config.batch_norm_groups != 1:
            raise UserError("segmentation normalises over the whole batch; leave --config.batch_norm_groups at 1")
        fields = model_fields(config, backend)
        head = {"head": config.head or "semantic_fpn", "head_width": config.head_width}
        fields["classifier_std"] = config.classifier_std
        model = create_segmenter(config.model, num_classes=config.data.num_classes, **head, **fields)
        change = partial(segmentation.change, config.data)
        test = {"test_scales": tuple(config.test_scales), "test_flip": config.test_flip}
        return cls(model, config.data, config.photometric, config.auxiliary_weight, **test, change=change)

    def view(self, source: Any, train: bool) -> Any:
        """The source, grouped for evaluation by the shapes of images and labels; prints each class's share of pixels.

        Raises:
          UserError: the source has no label maps, or another number of classes than the model.
        """
        if not hasattr(source, "colors"):
            raise UserError(f"--config.data.source={self.data.source} has no label maps; use scenes or label_maps")
        if source.num_classes != self.model.num_classes:
            raise UserError(
                f"the data has {source.num_classes} classes, the model {self.model.num_classes}; set "
                f"--config.data.num_classes={source.num_classes}, or leave it unset"
            )
        if not train:
            return Grouped(source, partial(_eval_group, self.data, source))
        if processes.is_first():
            print(_describe_labels(self.data, source), file=sys.stderr)
        return source

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, self._normalise(batch["image"]), train=False, method="with_auxiliary")

    def loss(self, variables: Variables, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        images, labels = batch["image"].astype(jnp.float32), batch["label"].astype(jnp.int32)
        if self.photometric:
            images = distort(images, rngs["augment"])
        images = _clear_padding(self._normalise(images), batch["size"])
        (logits, auxiliary), changed = self.model.apply(
            variables, images, train=True, method="with_auxiliary", rngs={"dropout": rngs["dropout"]},
            mutable=["batch_stats"],
        )  # fmt: skip
        logits, *auxiliary = (bilinear(x, labels.shape[1:]) for x in (logits, *auxiliary))
        loss = pixel_cross_entropy(logits, labels)
        loss += self.auxiliary_weight * sum(pixel_cross_entropy(x, labels) for x in auxiliary)
        known = labels != IGNORED
        right = known & (logits.argmax(axis=-1) == labels)
        return loss, ({"loss": loss, "aacc": 100 * right.sum() / jnp.maximum(known.sum(), 1)}, changed)

    def predict(self, variables: Variables, batch: Batch) -> jax.Array:
        """Counts int32 `[B, 3, K]` of the pixels of each class: right, predicted and labelled; ignored ones not."""
        labels = batch["label"].astype(jnp.int32)
        maps = self.label_maps(variables, batch["image"], batch["full_size"], labels.shape[1:])
        return jax.vmap(partial(count_pixels, num_classes=self.model.num_classes))(maps, labels)

    def label_maps(
        self, variables: Variables, images: jax.Array, sizes: jax.Array, canvas: tuple[int, int]
    ) -> jax.Array:
        """The most probable class of each pixel of the original images.

        Logits are resized to the network's input, then to the original size (mmseg's whole_inference). With one scale
        and no flip, the class with the largest logit is taken; else the mean of the probabilities decides. Inputs at
        other scales than 1 have sides that are multiples of the largest stride, rounded up.

        Args:
          images: uint8 `[B, H, W, 3]`, as `change` makes them for evaluation.
          sizes: of the original images, int `[B, 2]`.
          canvas: (height, width) that holds all originals.

        Returns:
          int32 `[B, *canvas]`; of no meaning beyond an image's size.
        """
        images, step = self._normalise(images), max(self.model.backbone.strides.values())
        views, inputs = [], []  # logits as the network gives them, and the sizes of its inputs
        for scale in self.test_scales:
            size = [math.ceil(side * scale / step) * step for side in images.shape[1:3]]
            scaled = images if scale == 1 else bilinear(images, size)
            for flip in (False, True)[: 1 + self.test_flip]:
                logits = self.model.apply(variables, scaled[:, :, ::-1] if flip else scaled, train=False)
                views.append(logits[:, :, ::-1] if flip else logits)
                inputs.append(scaled.shape[1:3])

        def one(image):  # one after the other: the scores of an image at its original size need much memory
            *logits, size = image
            pairs = zip(logits, inputs, strict=True)
            scores = [bilinear_onto(bilinear(x[None], shape)[0], size, canvas) for x, shape in pairs]
            mean = scores[0] if len(scores) == 1 else sum(map(jax.nn.softmax, scores))
            return mean.argmax(axis=-1)

        return jax.lax.map(one, (*views, sizes))

    def show(
        self, variables: Variables, examples: Iterable[tuple[str, dict]], batch_size: int, classes: Sequence[str],
        colors: Sequence[str] | None, out: Path,
    ) -> list[Path]:  # fmt: skip
        """Writes the label map of each image over its picture, see analysis/label_maps.py; one image at a time."""
        colors = np.array([[*bytes.fromhex(color[1:])] for color in colors], np.uint8) if colors else palette(classes)

        def predictions():
            for name, example in examples:
                yield name, *self._predict_one(variables, example)

        return label_maps.write(predictions(), classes, colors, out)

    def review(self, variables: Variables, evaluator: Evaluator, source: Any, out: Path) -> list[Path]:
        """Draws the images with the lowest and the highest mean IoU, best_and_worst.png."""
        ranking = evaluator.ranking()
        chosen = ranking[:SHOWN] + ranking[SHOWN:][-SHOWN:]
        rows = []
        for index, score in chosen:
            example = self.change(source[index], None)
            height, width = example["full_size"]
            title = f"{first_few([source.name(index)])}: {100 * score:.0f} %"
            picture, predicted = self._predict_one(variables, example)
            rows.append((title, picture, example["label"][:height, :width], predicted))
        if not rows or not processes.is_first():  # all processes took part until here
            return []
        return [label_maps.sheet(rows, source.classes, source.colors, out / "best_and_worst.png")]

    def _predict_one(self, variables, example):
        """Picture uint8 `[H, W, 3]` and label map `[H, W]` of an example, at the original size."""
        height, width = map(int, example["full_size"])
        canvas = segmentation.eval_group(self.data, (height, width))[2:]  # few shapes to compile for
        maps = _label_maps(self, canvas)(variables, example["image"][None], example["full_size"][None])
        picture = Image.fromarray(example["image"]).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(picture), np.asarray(maps[0])[:height, :width]

    def scalars(self, params: Any) -> dict[str, float]:
        """Alpha and beta of each ACmix layer."""
        return alpha_beta.scalars(params)

    def _normalise(self, images):
        return normalise(images, self.data.mean, self.data.std)


def count_pixels(predicted: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Pixels of each class that are right, predicted and labelled, int32 `[3, K]`, from int `[H, W]` twice.

    Ignored pixels are left out of all three (mmseg's intersect_and_union).
    """
    known = labels != IGNORED
    kinds = [known & (predicted == labels), known, known]
    return jnp.stack(
        [
            jnp.bincount(x.ravel(), where.ravel().astype(jnp.int32), length=num_classes)
            for x, where in zip((labels, predicted, labels), kinds, strict=True)
        ]
    )


def _eval_group(data, source, index):
    return segmentation.eval_group(data, source.size_of(index))


def _describe_labels(data, source):
    """The label rules and each class's share of the pixels, as text."""
    shares, ignored = segmentation.class_shares(data, source)
    rules = f"label {data.ignore_label} is ignored" + ", and so is 0" * data.zero_is_ignored
    named = [f"{printable(name)} {100 * share:.1f}" for name, share in zip(source.classes, shares, strict=True)]
    absent = [printable(name) for name, share in zip(source.classes, shares, strict=True) if not share]
    seen = f"in {min(segmentation.SAMPLE, len(source)):,} of {len(source):,} images"
    text = f"{len(shares)} classes; {rules} ({100 * ignored:.1f} % of the pixels); per cent of the others {seen}: "
    warning = f"\nwarning: not {seen}: {first_few(absent)}" if absent else ""
    if absent and not (shares[0] and shares[-1]):
        warning += "; check --config.data.zero_is_ignored"
    return textwrap.fill(text + ", ".join(named), 120) + warning


@cache
def _label_maps(task, canvas):
    return jax.jit(partial(task.label_maps, canvas=canvas))


def _clear_padding(images, sizes):
    """Zeros beyond each image's size, which are the mean colour after normalisation."""
    inside = [jnp.arange(images.shape[axis]) < sizes[:, axis - 1, None] for axis in (1, 2)]
    return images * (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
