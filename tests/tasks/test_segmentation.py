"""Segmentation: the loss, label maps at the original size, test-time scales and flips, and what does not fit."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.data import digits
from acmix_jax.data.scenes import SceneSource
from acmix_jax.errors import UserError
from acmix_jax.ops.losses import pixel_cross_entropy
from acmix_jax.tasks import create_task
from acmix_jax.tasks.segmentation import Segmentation
from configs import scenes
from tests.networks import draw

SIZES = np.array([[20, 33], [64, 50]], np.int32)


@pytest.fixture
def config():
    config = scenes.get_config("resnet14_stem1")
    config.head, config.head_width, config.data.num_classes, config.auxiliary_weight = "upernet", 8, 3, 0.4
    config.data.mean, config.data.std = (0.3,), (0.2,)
    return config


class Average:
    """Stands for a network: its logits are the colours of each 4x4 square of the image."""

    num_classes, backbone = 3, SimpleNamespace(strides={"c2": 4, "c5": 8})

    def apply(self, variables, images, train):
        assert not train
        return jax.image.resize(images, (len(images), images.shape[1] // 4, images.shape[2] // 4, 3), "linear")


def averaging(data, **fields):
    fields = {"photometric": False, "auxiliary_weight": 0.0, "test_scales": (1.0,), "test_flip": False} | fields
    return Segmentation(model=Average(), data=data, change=None, **fields)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)


def test_label_maps_are_those_of_two_resizings(config, images):
    maps = averaging(config.data).label_maps({}, images, SIZES, (64, 64))
    assert maps.shape == (2, 64, 64)
    logits = Average().apply({}, (jnp.float32(images) / 255 - 0.3) / 0.2, train=False)
    for image, (height, width), found in zip(logits, SIZES, maps, strict=True):
        for size in ((16, 24), (height, width)):
            image = jax.image.resize(image, (*size, 3), "bilinear", antialias=False)
        np.testing.assert_array_equal(found[:height, :width], image.argmax(axis=-1))


def test_scales_average_the_probabilities_of_two_resizings_each(config, images):
    maps = averaging(config.data, test_scales=(1.0, 1.5)).label_maps({}, images, SIZES, (64, 64))
    normal = (jnp.float32(images) / 255 - 0.3) / 0.2
    large = jax.image.resize(normal, (2, 24, 40, 3), "bilinear", antialias=False)  # 24x36, rounded up to multiples of 8
    for index, (height, width) in enumerate(SIZES):
        total = 0
        for view in (normal, large):
            logits = Average().apply({}, view, train=False)[index]
            for size in (view.shape[1:3], (height, width)):
                logits = jax.image.resize(logits, (*size, 3), "bilinear", antialias=False)
            total += jax.nn.softmax(logits)
        assert (maps[index, :height, :width] == total.argmax(axis=-1)).mean() > 0.999  # ties


def test_a_mirrored_image_has_the_mirrored_map_with_flips(config, images):
    task = averaging(config.data, test_flip=True, test_scales=(0.5, 1.0, 1.75))
    sizes = np.array([[16, 24]] * 2)
    maps = task.label_maps({}, images, sizes, (16, 24))
    mirrored = task.label_maps({}, images[:, :, ::-1], sizes, (16, 24))
    assert (np.asarray(maps)[:, :, ::-1] == mirrored).mean() > 0.99  # ties of two classes may be broken otherwise
    assert len(np.unique(maps)) == 3


def test_counts_do_not_depend_on_the_padding_of_labels(config, images):
    labels = np.random.default_rng(1).integers(0, 3, (2, 16, 24)).astype(np.uint8)
    batch = {"image": images, "label": labels, "full_size": np.array([[16, 24]] * 2)}
    counts = averaging(config.data).predict({}, batch)
    padded = np.pad(labels, ((0, 0), (0, 10), (0, 3)), constant_values=255)
    np.testing.assert_array_equal(counts, averaging(config.data).predict({}, {**batch, "label": padded}))
    right, predicted, labelled = np.moveaxis(np.asarray(counts), 1, 0)
    assert (predicted.sum(axis=1) == 16 * 24).all() and (right <= np.minimum(predicted, labelled)).all()
    np.testing.assert_array_equal(labelled, [np.bincount(x.ravel(), minlength=3) for x in labels])


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (2, 16, 16)).astype(np.uint8)
    labels[0, 10:] = labels[1, :, 12:] = 255
    image = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    return {"image": image, "label": labels, "size": np.array([[10, 16], [16, 12]], np.int32)}


@pytest.fixture
def task_and_variables(config, batch):
    task = create_task(config)
    return task, draw(jax.eval_shape(task.init, jax.random.key(0), batch))


def rngs():
    return {"dropout": jax.random.key(0), "augment": jax.random.key(1)}


def test_the_loss_has_the_auxiliary_head_with_its_weight(task_and_variables, batch):
    task, variables = task_and_variables
    loss, (metrics, changed) = jax.jit(task.loss)(variables, batch, rngs())
    inside = np.arange(16) < batch["size"][..., None]  # [2, 2, 16]
    images = (jnp.float32(batch["image"]) / 255 - 0.3) / 0.2 * (inside[:, 0, :, None] & inside[:, 1, None])[..., None]
    (logits, (auxiliary,)), _ = task.model.apply(
        variables, images, train=True, method="with_auxiliary", rngs=rngs(), mutable=["batch_stats"]
    )
    assert logits.shape[1:3] == (16, 16) and auxiliary.shape[1:3] == (4, 4)
    labels = batch["label"].astype(int)
    large = jax.image.resize(auxiliary, logits.shape, "bilinear", antialias=False)
    expected = pixel_cross_entropy(logits, labels) + 0.4 * pixel_cross_entropy(large, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert metrics["loss"] == loss and 0 <= metrics["aacc"] <= 100 and "batch_stats" in changed


def test_what_is_in_the_padding_does_not_matter(task_and_variables, batch):
    task, variables = task_and_variables
    loss = jax.jit(task.loss)(variables, batch, rngs())[0]
    other = {**batch, "image": batch["image"].copy()}
    other["image"][0, 10:] = other["image"][1, :, 12:] = 99
    assert jax.jit(task.loss)(variables, other, rngs())[0] == loss


def test_colours_are_distorted_only_if_asked(config, batch, task_and_variables):
    _, variables = task_and_variables
    losses = []
    for config.photometric in (False, True):
        losses.append(float(create_task(config).loss(variables, batch, rngs())[0]))
    assert abs(losses[0] - losses[1]) > 1e-4


def test_sources_that_do_not_fit_are_told(config):
    task = create_task(config)
    with pytest.raises(UserError, match="--config.data.source=scenes has no label maps; use scenes or label_maps"):
        task.view(digits.load("train", ""), train=True)
    with pytest.raises(UserError, match="the data has 11 classes, the model 3; set --config.data.num_classes=11"):
        task.view(SceneSource("train"), train=True)


def test_the_classes_and_their_shares_are_printed(config, capsys):
    config.data.num_classes = 11
    create_task(config).view(SceneSource("train"), train=True)
    said = capsys.readouterr().err
    assert said.startswith("11 classes; label 255 is ignored (0.0 % of the pixels); per cent of the others")
    assert "background" in said and "warning" not in said


def test_groups_of_batch_norm_are_refused(config):
    config.batch_norm_groups = 2
    with pytest.raises(UserError, match="leave --config.batch_norm_groups at 1"):
        create_task(config)
