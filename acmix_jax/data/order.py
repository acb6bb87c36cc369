"""The order of examples: a function of the seed and the step, so that a run resumes without iterator state.

A source may put its examples into groups, `group_of(index) -> int`, e.g. by the size of their images; then all rows of
a batch come from one group and have one shape. Without groups, all examples are one group. The group of an example that
cannot be read may be None; then it joins that of the first other one.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np


class Groups:
    """The examples of each group.

    Attributes:
      members: int64 arrays of indices in ascending order, one for each group.
    """

    def __init__(self, source: Any):
        self._count = len(source)
        group_of = getattr(source, "group_of", None)
        self._labels = None
        if group_of is None:
            self.members = [np.arange(self._count)]
        else:
            groups = [group_of(index) for index in range(self._count)]
            known = next((group for group in groups if group is not None), 0)
            groups = [known if group is None else group for group in groups]
            _, self._labels = np.unique(groups, return_inverse=True, axis=0)
            self.members = self.split(np.arange(self._count))

    def split(self, indices: np.ndarray) -> list[np.ndarray]:
        """The indices of each group, in their order."""
        if self._labels is None:
            return [indices]
        labels = self._labels[indices]
        return [indices[labels == group] for group in range(self._labels.max() + 1)]

    def following(self, index: int) -> Iterator[int]:
        """All indices in the group of `index`, from it on and around."""
        members = self.members[0 if self._labels is None else self._labels[index]]
        first = np.searchsorted(members, index)
        for offset in range(len(members)):
            yield int(members[(first + offset) % len(members)])


class Grouped:
    """A source whose examples are grouped, for batches of one shape.

    Args:
      group_of: index -> any value that sorts; examples with the same one form a group.
    """

    def __init__(self, source: Any, group_of: Callable[[int], Any]):
        self._source, self.group_of = source, group_of

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        return self._source[index]

    def __getattr__(self, name: str) -> Any:
        """Another attribute of the source, such as its classes."""
        if name == "_source":  # not there yet while a copy for a worker process is built
            raise AttributeError(name)
        return getattr(self._source, name)


class TrainOrder:
    """Endless passes over the examples, each in its own order.

    The rows of a group form one stream, in which pass follows pass, and a batch is the next `batch_size` rows of a
    stream: no example is left out. Epoch e has the batches that start in pass e of their group's stream, in an order
    drawn for this epoch.
    """

    def __init__(self, groups: Groups, batch_size: int, seed: int):
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._sizes = np.array([len(members) for members in groups.members])

    def index(self, row: int, repeats: int = 1) -> int:
        """The example in a global row: row r of step s has number s * batch_size + r.

        With `repeats`, each example comes that many times in a row, and a pass ends after as many rows as before.
        """
        step, row = divmod(row, self._batch_size)
        group, batch = self._batch_of(step)
        epoch, offset = divmod(batch * self._batch_size + row, int(self._sizes[group]))
        return int(_shuffled(self._groups, self._seed, epoch)[group][offset // repeats])

    def _batch_of(self, step):
        """The group of a step, and the number of its batch within the group's stream."""
        if len(self._sizes) == 1:
            return 0, step
        epoch = step * self._batch_size // int(self._sizes.sum())
        while self._first_batches(epoch).sum() > step:
            epoch -= 1
        first = self._first_batches(epoch)
        groups, batches = _epoch(self, epoch)
        position = step - first.sum()
        return int(groups[position]), int(batches[position])

    def _first_batches(self, epoch):
        """Each group's first batch that starts in this epoch's pass or later."""
        return -(-epoch * self._sizes // self._batch_size)

    def draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Group and number within the group's stream of each batch of an epoch, in the order of its steps."""
        first, end = self._first_batches(epoch), self._first_batches(epoch + 1)
        groups = np.repeat(np.arange(len(first)), end - first)
        np.random.default_rng((self._seed, epoch, 1)).shuffle(groups)
        batches = np.empty_like(groups)
        for group, (begin, stop) in enumerate(zip(first, end, strict=True)):
            batches[groups == group] = np.arange(begin, stop)
        return groups, batches


@lru_cache(maxsize=2)
def _shuffled(groups, seed, epoch):
    """The indices of each group in the order of a pass."""
    return groups.split(np.random.default_rng((seed, epoch)).permutation(sum(map(len, groups.members))))


@lru_cache(maxsize=4)
def _epoch(order, epoch):
    return order.draw_epoch(epoch)


def eval_order(groups: Groups, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every example once, group by group, in whole batches of one group.

    Returns:
      Indices int64 `[N]`, where the last batch of each group is padded with its first member, and bool `[N]`, False for
      this padding.
    """
    rows, real = [], []
    for members in groups.members:
        padding = -len(members) % batch_size
        rows += [members, np.full(padding, members[0])]
        real += [np.ones(len(members), bool), np.zeros(padding, bool)]
    return np.concatenate(rows), np.concatenate(real)
