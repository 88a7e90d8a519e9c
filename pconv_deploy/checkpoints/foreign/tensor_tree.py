"""Where in a file the weights of a network lie: one rule for all files and all readers.

Training code rarely stores weights alone: {"state_dict": ..., "optimizer": ..., "epoch": 3}, names
that begin with "module." (DataParallel) or "model." (Lightning), averaged weights beside raw ones.
So a file is taken as a tree, whose branches are the keys of nested dictionaries and the parts of
tensors' names between dots. A *place* is a branch, such as "state_dict.model", with all tensors
below it, named from there. The weights are the place that fits the network, whatever it is called;
if several fit, the user has to choose.
"""

import re
import shlex
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pconv_deploy.checkpoints.foreign.weights import shown
from pconv_deploy.errors import CheckpointError

_T = TypeVar("_T")
Tensors = Mapping[str, Tensor]
ROOT = "."  # the place that is the whole file
# What wrappers of torch insert into names, anywhere: around the network or around one layer.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Words by which files name averages of weights; an optimiser's exp_avg is none.
_AVERAGES = re.compile(r"(?<![a-z])(ema|swa|shadow|averaged?)(?![a-z])", re.IGNORECASE)
# Hostile files; others have a tenth of it.
_MOST_TENSORS, _LONGEST_NAME, _MOST_BRANCHES = 20_000, 500, 16


class Wanted(Protocol):
    """A network whose weights are looked for."""

    def concerns(self, names: Collection[str], /) -> bool:
        """Whether one dictionary, with these names in it, holds any of its tensors."""

    def fits(self, tensors: Tensors, /) -> bool:
        """Whether these are its weights."""


class _Entry(NamedTuple):
    """A tensor, its full name, and which dictionary holds it."""

    name: str
    tensor: Tensor
    dictionary: int


class Places:
    """The places of a file, from the innermost to the file itself.

    Raises:
        CheckpointError: more tensors or longer names than any network has.
    """

    def __init__(self, path: Path, content: object) -> None:
        self._path = path
        self._entries = _entries(path, content)
        self._at: dict[str, list[int]] = {}
        for number, entry in enumerate(self._entries):
            for place in (ROOT, *_branches(entry.name)):
                self._at.setdefault(place, []).append(number)
        self.keys = sorted(self._at, key=_depth, reverse=True)

    def tensors(self, place: str) -> Tensors:
        """All tensors below a place, by their names from there."""
        return self._tensors(place, self._at.get(place, ()))

    def concerning(
        self, place: str, wanted: Wanted, without: Collection[int] = ()
    ) -> dict[str, Tensor]:
        """The tensors of a place, of those dictionaries alone that hold some of a network's.

        What lies in dictionaries beside, such as an optimiser's state, is no part of it.
        """
        dictionaries: dict[int, list[int]] = {}
        for number in self._at[place]:
            if number not in without:
                dictionaries.setdefault(self._entries[number].dictionary, []).append(number)
        parts = [self._tensors(place, numbers) for numbers in dictionaries.values()]
        return {n: t for part in parts if wanted.concerns(part.keys()) for n, t in part.items()}

    def fitting(self, wanted: Wanted) -> dict[str, Tensors]:
        """The places with weights of a network, outermost first."""
        found: dict[str, Tensors] = {}
        taken: set[int] = set()  # by a place inside: averaged weights at "ema", beside the raw ones
        for place in self.keys:
            tensors = self.concerning(place, wanted, without=taken)
            if tensors and wanted.fits(tensors):
                found[place] = tensors
                taken.update(self._at[place])
        return dict(sorted(found.items(), key=lambda item: _depth(item[0])))

    def chosen(self, fitting: Mapping[str, Tensors], key: str | None, remedy: str) -> str | None:
        """The one fitting place, at or below `key` if that is given; None if none fits.

        Raises:
            CheckpointError: several fit, with their names and `remedy`; one fits, beside averaged
                weights that do not; or there is no such key.
        """
        if key is not None and key not in self._at:
            there = fitting or [place for place in self.keys if _depth(place) == 1]
            raise CheckpointError(
                f"{self._path} has no weights under the key {key!r}; it has: {shown(there)}"
            )
        if key in fitting:
            return key
        candidates = _distinct({p: t for p, t in fitting.items() if is_within(p, key or ROOT)})
        if len(candidates) > 1:
            raise CheckpointError(
                f"{self._path} holds {len(candidates)} sets of weights that fit: "
                f"{shown(candidates)}. {remedy}"
            )
        place = next(iter(candidates), None)
        if place is not None and (averages := self._averages_beside(fitting)):
            raise CheckpointError(
                f"{self._path} holds averaged weights beside those that fit, without the names or "
                f"all the tensors of the network, so that they cannot be read: {shown(averages)}. "
                f"If the weights at {place} are meant, say so: --weights-key {shlex.quote(place)}"
            )
        return place

    def _averages_beside(self, fitting: Mapping[str, Tensors]) -> list[str]:
        """Names of tensors that seem to be averages of those that fit, and are none of them."""
        fit = [tensor for tensors in fitting.values() for tensor in tensors.values()]
        own = {id(tensor) for tensor in fit}
        shapes = {tensor.shape for tensor in fit if tensor.dim() > 1}
        return [
            entry.name
            for entry in self._entries
            if _AVERAGES.search(entry.name)
            and id(entry.tensor) not in own
            and entry.tensor.shape in shapes
        ]

    def within(self, key: str | None) -> list[str]:
        """The places at or below a key, innermost first."""
        return [place for place in self.keys if is_within(place, key or ROOT)]

    def _tensors(self, place: str, numbers: Iterable[int]) -> dict[str, Tensor]:
        skipped = 0 if place == ROOT else len(place) + 1
        entries = [self._entries[number] for number in numbers]
        return unwrapped({entry.name[skipped:]: entry.tensor for entry in entries})


def unwrapped(named: Mapping[str, _T]) -> dict[str, _T]:
    """Remove what wrappers of torch insert into names, unless that makes two names the same."""
    plain = {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in named.items()
    }
    return plain if len(plain) == len(named) and "" not in plain else dict(named)


def _entries(path: Path, content: object) -> list[_Entry]:
    """Every tensor in nested containers, by the keys on the way to it; each container once."""
    entries: list[_Entry] = []
    waiting, seen = deque([("", content)]), {id(content)}
    while waiting:
        branch, container = waiting.popleft()
        for key, item in _items(container):
            if not isinstance(item, Tensor | Mapping | list | tuple):
                continue
            name = f"{branch}.{key}" if branch else key
            if len(name) > _LONGEST_NAME:
                raise CheckpointError(f"{path} holds names of more than {_LONGEST_NAME} characters")
            if isinstance(item, Tensor) and not isinstance(container, Mapping) and not branch:
                continue  # a file that is a list of tensors names none
            if isinstance(item, Tensor):
                entries.append(_Entry(name, item, id(container)))
            elif id(item) not in seen:
                seen.add(id(item))
                waiting.append((name, item))
        if len(entries) > _MOST_TENSORS:
            raise CheckpointError(f"{path} holds more than {_MOST_TENSORS:,} named tensors")
    return entries


def _items(container: Any) -> Iterable[tuple[str, object]]:
    if isinstance(container, Mapping):
        return [(str(key), item) for key, item in container.items() if _names(key)]
    if isinstance(container, list | tuple):
        return [(str(number), item) for number, item in enumerate(container)]
    return []


def _names(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def _branches(name: str) -> list[str]:
    parts = name.split(".")[:-1][:_MOST_BRANCHES]
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _depth(place: str) -> int:
    return 0 if place == ROOT else place.count(".") + 1


def is_within(place: str, outer: str) -> bool:
    """Whether a place is another one or a part of it."""
    return outer in (ROOT, place) or place.startswith(f"{outer}.")


def _distinct(places: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Leave places out whose tensors equal those of an earlier one: the choice changes nothing."""
    distinct: dict[str, Tensors] = {}
    for place, tensors in places.items():
        if not any(_same(tensors, other) for other in distinct.values()):
            distinct[place] = tensors
    return distinct


def _same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Tensor, other: Tensor) -> bool:
    facts = [(t.dtype, t.shape, t.layout) for t in (one, other)]
    if facts[0] != facts[1] or one.layout != torch.strided:
        return one is other
    return torch.equal(one, other)
