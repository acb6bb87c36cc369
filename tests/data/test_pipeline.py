import itertools

import numpy as np
import pytest

from acmix_jax.data import augment, pipeline
from acmix_jax.data.arrays import ArraySource
from acmix_jax.errors import UserError
from configs import common


@pytest.fixture
def settings():
    return common.get_config().data


def numbered(count):
    """Examples whose label is their place."""
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
    return ArraySource(images, np.arange(count))


def labels(batches, count):
    return np.concatenate([batch["label"] for batch in itertools.islice(batches, count)]).tolist()


def test_every_pass_has_every_example_once_in_a_new_order(settings):
    order = labels(pipeline.train_batches(numbered(10), settings, batch_size=4, seed=0), 5)
    first, second = order[:10], order[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_seed_decides_the_order_and_the_augmentation(settings):
    settings.shift, settings.flip = 2, True

    def images(seed):
        return next(pipeline.train_batches(numbered(10), settings, batch_size=8, seed=seed))["image"]

    np.testing.assert_array_equal(images(0), images(0))
    assert (images(0) != images(1)).any()


def test_the_iterator_continues_from_its_state(settings):
    settings.shift = 2
    whole = pipeline.train_batches(numbered(10), settings, batch_size=4, seed=0)
    for _ in range(3):
        next(whole)
    state = whole.get_state()
    continued = pipeline.train_batches(numbered(10), settings, batch_size=4, seed=0)
    continued.set_state(state)
    for _ in range(3):
        wanted, found = next(whole), next(continued)
        np.testing.assert_array_equal(found["label"], wanted["label"])
        np.testing.assert_array_equal(found["image"], wanted["image"])


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 16])
def test_evaluation_counts_each_example_once(settings, batch_size):
    batches = list(pipeline.eval_batches(numbered(10), settings, batch_size))
    assert all(batch["image"].shape == (batch_size, 6, 6, 1) for batch in batches)
    real = np.concatenate([batch["label"][batch["mask"] > 0] for batch in batches])
    assert real.tolist() == list(range(10))


@pytest.mark.parametrize("size", [8, 10])
def test_evaluation_shared_by_two_processes_counts_each_example_once(settings, monkeypatch, size):
    seen = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        for batch in pipeline.eval_batches(numbered(size), settings, 4):
            assert len(batch["label"]) == 2
            seen += batch["label"][batch["mask"] > 0].tolist()
    assert sorted(seen) == list(range(size))


def test_shift_moves_and_flip_mirrors():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 1
    rng = np.random.default_rng(0)
    places = {tuple(np.argwhere(augment.shift({"image": image}, rng, 1)["image"])[0][:2]) for _ in range(200)}
    assert places == set(itertools.product((1, 2, 3), repeat=2))
    image[2, 0] = 1
    flips = [augment.flip({"image": image}, rng)["image"][2, 4, 0] for _ in range(200)]
    assert 60 < sum(flips) < 140


def test_an_unknown_source_is_named(settings):
    settings.source = "digit"
    with pytest.raises(UserError, match="unknown data source 'digit'; did you mean digits"):
        pipeline.open_source(settings, "train")
