"""Finds the weights of a network in what a training script saved.

Scripts put a state dict under a key of their own, a prefix before every name, an average of the weights beside them.
None of these is known here by its name: a place is a mapping that holds tensors and a prefix of their names, and the
right one is where most of the network's names are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import jax
import numpy as np

from acmix_jax.errors import UserError, check_choice

_AVERAGED = r"(?<![a-z])(ema|swa|avg|averag|shadow|teacher|target|momentum)|(ema|avg)(?![a-z])"
_WRAPPER = r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""PyTorch's own parts of names, the only ones that come in the middle of a name, too."""


class Found(NamedTuple):
    """The weights of a network, and what lies around them."""

    tensors: dict[str, Any]  # by name, without the prefix
    layout: int  # index of the names that fit best
    beside: list[str]  # tensors of the same mapping that do not have the prefix
    place: str  # where the weights were; empty: at the top
    others: list[str]  # further places with weights of this network
    prefix: str = ""  # of the names where the weights were


class _Place(NamedTuple):
    mapping: str  # path of the mapping that holds the tensors, such as "state_dict"
    prefix: str  # of their names, such as "module."

    @property
    def path(self) -> str:
        return f"{self.mapping}.{self.prefix}".strip(".")


class _Fit(NamedTuple):
    layout: int  # index of the names that fit a place best
    count: int  # of them that are there


def find(content: Any, layouts: Sequence[AbstractSet[str]], key: str | None = None) -> Found:
    """The weights that fit best; of several that fit about as well, those that are no average of others.

    Args:
      content: a mapping from names to tensors, or one that holds such mappings at any depth.
      layouts: for each layout, the names of all tensors of the network.
      key: where to look, such as "model_ema"; None for everywhere.

    Raises:
      UserError: there are no tensors by name, or no weights under `key`.
    """
    entries = list(_entries(content))
    if not entries:
        raise UserError("there are no tensors by name in it; save the state dict of the model (model.state_dict())")
    likely = _likely(entries, layouts)
    if key is not None:
        entries, likely = _under(key, entries, likely, layouts)
    place, layout = _best(likely) if likely else (_largest(entries), 0)
    tensors, beside = _collect(entries, place, likely)
    others = [_label(other, likely) for other in likely if other != place]
    return Found(tensors, layout, beside, _label(place, likely), others, place.prefix)


def _under(key, entries, likely, layouts):
    """The entries below `key`, and the likely places among them."""
    below = [entry for entry in entries if f".{key}." in f".{entry[0]}.{entry[1]}"]
    places = {place: fit for place, fit in _likely(below, layouts).items() if f".{key}." in f".{place.path}."}
    if places or (below and not likely):
        return below, places
    labels = {_label(place, likely) for place in likely} - {""}  # the network's own names, such as fc, are no keys
    if not labels:
        raise UserError(f"there is no key {key!r} with weights of this model; leave key (--key in the command) out")
    check_choice("key", key, sorted(labels))


def _best(likely):
    """The place to take weights from, and the layout that they have."""
    place = min(likely, key=lambda place: (_is_averaged(place), -likely[place].count, len(place.path)))
    return place, likely[place].layout


def _largest(entries):
    return _Place(Counter(mapping for mapping, _, _ in entries).most_common(1)[0][0], "")


def _collect(entries, place, likely):
    """The tensors of a place by name, and the names of those in its mapping that no likely place has."""
    prefixes = sorted({other.prefix for other in (place, *likely) if other.mapping == place.mapping}, key=len)
    tensors, beside = {}, []
    for mapping, name, value in entries:
        if mapping == place.mapping:
            # The longest one: an average may lie inside of the module with the weights, as model._ema in model.
            prefix = next((prefix for prefix in reversed(prefixes) if name.startswith(prefix)), None)
            if prefix == place.prefix:
                tensors[name.removeprefix(prefix)] = value
            elif prefix is None:
                beside.append(name)
    return tensors, beside


def _entries(content: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Path of the mapping, name and value of each tensor."""
    if not isinstance(content, Mapping):
        return
    bare = {key: re.sub(_WRAPPER, "", key) for key in content if isinstance(key, str)}
    count_of = Counter(bare.values())
    for key, name in bare.items():
        value = content[key]
        if isinstance(value, Mapping) and not key.startswith("optim"):  # an optimizer's averages have the same names
            yield from _entries(value, f"{path}.{key}".strip("."))
        elif hasattr(value, "detach") or isinstance(value, np.ndarray | np.number | jax.Array):
            yield path, key if count_of[name] > 1 else name, value  # two names that differ stay apart


def _likely(entries, layouts) -> dict[_Place, _Fit]:
    """The likely places, each with the layout that fits it best, the first of several.

    Places with less than a quarter of the names have other networks; those with less than half as many as the best
    place have parts of networks. An average of weights lacks running statistics, perhaps.
    """
    counts = defaultdict(Counter)
    for mapping, name, _ in entries:
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            for index, names in enumerate(layouts):
                counts[_Place(mapping, name[:start])][index] += name[start:] in names
    best = {place: _Fit(*by_layout.most_common(1)[0]) for place, by_layout in counts.items()}
    least = max(max((fit.count for fit in best.values()), default=0) / 2, len(layouts[0]) / 4)
    return {place: fit for place, fit in best.items() if fit.count >= least}


def _is_averaged(place):
    return bool(re.search(_AVERAGED, place.path.lower()))


def _label(place, likely):
    """The key that leads to a place: the path of its mapping if no other place is in there."""
    alone = sum(other.mapping == place.mapping for other in likely) <= 1
    return place.mapping if alone and place.mapping else place.path
