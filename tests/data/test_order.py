"""Batches of one group each: exact passes over the examples, on any number of processes, from any step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_jax.config import default_config
from acmix_jax.data import pipeline
from acmix_jax.data.order import Groups, TrainOrder, eval_order
from acmix_jax.data.photos import CorruptImage
from acmix_jax.errors import UserError


class Labelled:
    """Examples that are nothing but an image of the size of their group."""

    def __init__(self, groups):
        self._groups = groups

    def __len__(self):
        return len(self._groups)

    def __getitem__(self, index):
        return {"image": np.full((self._groups[index] + 1, 2, 1), index, np.uint8)}

    def group_of(self, index):
        return self._groups[index]


def keep(example, rng):
    return example


group_lists = st.lists(st.sampled_from([0, 3, 8]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(groups=group_lists, processes=st.integers(1, 3), share=st.integers(1, 5), start=st.integers(0, 20))
def test_each_pass_over_a_group_has_each_of_its_examples_once(groups, processes, share, start):
    source, batch_size = Labelled(groups), processes * share
    steps = start + 3 * -(-len(groups) // batch_size)

    def steps_of_process(process, start):
        order = TrainOrder(Groups(source), batch_size, seed=1)
        rows = range(process * share, (process + 1) * share)
        return [[order.index(step * batch_size + row) for row in rows] for step in range(start, steps)]

    shares = [steps_of_process(process, 0) for process in range(processes)]
    assert [steps_of_process(process, start) for process in range(processes)] == [rows[start:] for rows in shares]
    streams = {group: [] for group in groups}
    for batch in ([i for part in parts for i in part] for parts in zip(*shares, strict=True)):
        (group,) = {groups[index] for index in batch}
        streams[group] += batch
    for group, stream in streams.items():
        members = [index for index, other in enumerate(groups) if other == group]
        passes = [stream[i : i + len(members)] for i in range(0, len(stream), len(members))]
        assert all(sorted(one) == members for one in passes[:-1])
        assert all(len(set(one)) == len(one) for one in passes)


@settings(max_examples=60, deadline=None)
@given(groups=group_lists, batch_size=st.integers(1, 12), epochs=st.integers(1, 5))
def test_the_groups_advance_together(groups, batch_size, epochs):
    """After e epochs, each group has begun every batch of e of its passes and no other."""
    order = TrainOrder(Groups(Labelled(groups)), batch_size, seed=1)
    sizes = {group: groups.count(group) for group in groups}
    expected = {group: -(-epochs * size // batch_size) for group, size in sizes.items()}
    actual = [groups[order.index(step * batch_size)] for step in range(sum(expected.values()))]
    assert {group: actual.count(group) for group in sizes} == expected


def test_the_seed_decides_the_order_of_the_groups():
    def groups_of(seed):
        order = TrainOrder(Groups(Labelled(groups)), 2, seed)
        return [groups[order.index(2 * step)] for step in range(20)]

    groups = 20 * [0] + 20 * [3]
    assert groups_of(0) == groups_of(0) != groups_of(1)
    assert groups_of(0)[:10] != sorted(groups_of(0)[:10])


@given(groups=group_lists, batch_size=st.integers(1, 12))
def test_evaluation_has_each_example_once_in_batches_of_one_group(groups, batch_size):
    indices, real = eval_order(Groups(Labelled(groups)), batch_size)
    assert sorted(indices[real]) == list(range(len(groups)))
    labels = np.array(groups)[indices].reshape(-1, batch_size)
    assert (labels == labels[:, :1]).all()


def test_a_source_without_groups_is_one_group():
    assert [members.tolist() for members in Groups([5, 6, 7]).members] == [[0, 1, 2]]
    assert list(Groups([5, 6, 7]).following(1)) == [1, 2, 0]


def test_the_next_example_is_of_the_same_group():
    assert list(Groups(Labelled([0, 3, 0, 3, 0])).following(2)) == [2, 4, 0]


def test_an_example_of_unknown_group_joins_another():
    assert [members.tolist() for members in Groups(Labelled([None, 3, 0, None])).members] == [[2], [0, 1, 3]]


class Damaged(Labelled):
    """Some examples cannot be read; of some, not even their group."""

    def __init__(self, groups, unreadable, ungrouped=()):
        super().__init__(groups)
        self._unreadable, self._ungrouped = unreadable, ungrouped

    def __getitem__(self, index):
        if index in self._unreadable:
            raise CorruptImage(f"image {index} is corrupt")
        return super().__getitem__(index)

    def group_of(self, index):
        if index in self._ungrouped:
            raise CorruptImage(f"header {index} is corrupt")
        return super().group_of(index)


def test_evaluation_leaves_out_a_group_that_cannot_be_read():
    config = default_config().data
    config.damaged = "skip"
    source = Damaged([3, 0, 5, 3], unreadable=[1, 3], ungrouped=[3])
    batches = list(pipeline.eval_batches(source, config, keep, 2))
    assert [(b["index"].tolist(), b["mask"].tolist()) for b in batches] == [([0, 0], [1, 0]), ([2, 2], [1, 0])]


def test_evaluation_without_an_image_that_can_be_read_is_refused():
    config = default_config().data
    config.damaged = "skip"
    with pytest.raises(UserError, match="^no image of the data can be read; see the warnings"):
        list(pipeline.eval_batches(Damaged([3, 0], unreadable=[0, 1], ungrouped=[0, 1]), config, keep, 2))


def test_a_group_that_cannot_be_read_is_as_a_corrupt_image():
    source = Damaged([3, 0], unreadable=[1], ungrouped=[1])
    with pytest.raises(UserError, match="^header 1 is corrupt; repair .* set --config.data.damaged=skip$"):
        pipeline.eval_batches(source, default_config().data, keep, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_one_size_each(workers):
    config = default_config().data
    config.workers = workers
    source = Labelled([0, 3, 3, 0, 3])

    train = list(itertools.islice(pipeline.train_batches(source, config, keep, 2, seed=0, start=1), 6))
    assert {batch["image"].shape for batch in train} == {(2, 1, 2, 1), (2, 4, 2, 1)}
    evaluated = [(b["index"].tolist(), b["mask"].tolist()) for b in pipeline.eval_batches(source, config, keep, 2)]
    assert evaluated == [([0, 3], [1, 1]), ([1, 2], [1, 1]), ([4, 1], [1, 0])]
