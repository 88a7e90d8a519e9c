"""Find a network's weights in a file: one rule for all files and all readers.

Training code rarely stores weights alone: {"state_dict": ..., "optimizer": ..., "epoch": 3}, names
that begin with "module." (DataParallel) or "model." (Lightning), averaged weights beside raw ones.
So a file is taken as a tree, whose branches are the keys of nested dictionaries and the parts of
tensors' names between dots. A branch, such as "state_dict.model", has all tensors below it, named
from there. The weights are the branch that fits the network, whatever its name; if several fit, the
user has to choose.
"""

import re
import shlex
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pconv_deploy.checkpoints.foreign.weights import list_names
from pconv_deploy.errors import CheckpointError

_T = TypeVar("_T")
Tensors = Mapping[str, Tensor]
ROOT = "."  # the whole file
# What wrappers of torch insert into names, anywhere: around the network or around one layer.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Names of averaged weights in files; an optimiser's exp_avg is none.
_AVERAGES = re.compile(r"(?<![a-z])(ema|swa|shadow|averaged?)(?![a-z])", re.IGNORECASE)
# Bounds for hostile files; others have a tenth of it.
_MOST_TENSORS, _LONGEST_NAME, _MOST_BRANCHES = 20_000, 500, 16


class Matcher(Protocol):
    """Recognises the weights of a network."""

    def uses(self, names: Collection[str], /) -> bool:
        """Return whether a dictionary with these names holds any of its tensors."""

    def fits(self, tensors: Tensors, /) -> bool:
        """Return whether these are its weights."""


class _Entry(NamedTuple):
    """A tensor, its full name, and which dictionary holds it."""

    name: str
    tensor: Tensor
    dictionary: int


class TensorTree:
    """The branches of a file, from the innermost to the whole file.

    Raises:
        CheckpointError: more tensors or longer names than any network has.
    """

    def __init__(self, path: Path, content: object) -> None:
        self._path = path
        self._entries = _entries(path, content)
        self._at: dict[str, list[int]] = {}
        for number, entry in enumerate(self._entries):
            for branch in (ROOT, *_branches(entry.name)):
                self._at.setdefault(branch, []).append(number)
        self.keys = sorted(self._at, key=_depth, reverse=True)

    def tensors(self, branch: str) -> Tensors:
        """Return all tensors below a branch, by their names from there."""
        return self._tensors(branch, self._at.get(branch, ()))

    def relevant(
        self, branch: str, wanted: Matcher, without: Collection[int] = ()
    ) -> dict[str, Tensor]:
        """Return the tensors of a branch from the dictionaries that hold some of a network's.

        Other dictionaries, such as an optimiser's state, are left out.
        """
        dictionaries: dict[int, list[int]] = {}
        for number in self._at[branch]:
            if number not in without:
                dictionaries.setdefault(self._entries[number].dictionary, []).append(number)
        parts = [self._tensors(branch, numbers) for numbers in dictionaries.values()]
        return {n: t for part in parts if wanted.uses(part.keys()) for n, t in part.items()}

    def fitting(self, wanted: Matcher) -> dict[str, Tensors]:
        """Return the branches with weights of a network, outermost first."""
        found: dict[str, Tensors] = {}
        taken: set[int] = set()  # by an inner branch: averages at "ema", beside the raw weights
        for branch in self.keys:
            tensors = self.relevant(branch, wanted, without=taken)
            if tensors and wanted.fits(tensors):
                found[branch] = tensors
                taken.update(self._at[branch])
        return dict(sorted(found.items(), key=lambda item: _depth(item[0])))

    def choose(self, fitting: Mapping[str, Tensors], key: str | None, remedy: str) -> str | None:
        """Return the one fitting branch, at or below `key` if given; None if none fits.

        Raises:
            CheckpointError: several fit, with their names and `remedy`; one fits, beside averaged
                weights that do not; or there is no such key.
        """
        if key is not None and key not in self._at:
            there = fitting or [branch for branch in self.keys if _depth(branch) == 1]
            raise CheckpointError(
                f"{self._path} has no weights under the key {key!r}; it has: {list_names(there)}"
            )
        if key in fitting:
            return key
        candidates = _distinct({p: t for p, t in fitting.items() if is_within(p, key or ROOT)})
        if len(candidates) > 1:
            raise CheckpointError(
                f"{self._path} holds {len(candidates)} sets of weights that fit: "
                f"{list_names(candidates)}. {remedy}"
            )
        branch = next(iter(candidates), None)
        if branch is not None and (averages := self._averages_beside(fitting)):
            raise CheckpointError(
                f"{self._path} holds averaged weights beside those that fit, without the names or "
                "all the tensors of the network, so that they cannot be read: "
                f"{list_names(averages)}. If the weights at {branch} are meant, say so: "
                f"--weights-key {shlex.quote(branch)}"
            )
        return branch

    def _averages_beside(self, fitting: Mapping[str, Tensors]) -> list[str]:
        """Return names of tensors that seem to be averages of those that fit."""
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

    def branches_within(self, key: str | None) -> list[str]:
        """Return the branches at or below a key, innermost first."""
        return [branch for branch in self.keys if is_within(branch, key or ROOT)]

    def _tensors(self, branch: str, numbers: Iterable[int]) -> dict[str, Tensor]:
        skipped = 0 if branch == ROOT else len(branch) + 1
        entries = [self._entries[number] for number in numbers]
        return without_wrappers({entry.name[skipped:]: entry.tensor for entry in entries})


def without_wrappers(named: Mapping[str, _T]) -> dict[str, _T]:
    """Remove what torch's wrappers insert into names, unless two names would collide."""
    plain = {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in named.items()
    }
    return plain if len(plain) == len(named) and "" not in plain else dict(named)


def _entries(path: Path, content: object) -> list[_Entry]:
    """Collect every tensor in nested containers, named by its keys; each container once."""
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
        # A number of many digits would take long to write.
        return [
            (str(key), item)
            for key, item in container.items()
            if isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)
        ]
    if isinstance(container, list | tuple):
        return [(str(number), item) for number, item in enumerate(container)]
    return []


def _branches(name: str) -> list[str]:
    parts = name.split(".")[:-1][:_MOST_BRANCHES]
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _depth(branch: str) -> int:
    return 0 if branch == ROOT else branch.count(".") + 1


def is_within(branch: str, outer: str) -> bool:
    """Return whether a branch is `outer` or below it."""
    return outer in (ROOT, branch) or branch.startswith(f"{outer}.")


def _distinct(branches: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Drop branches whose tensors equal those of an earlier one."""
    distinct: dict[str, Tensors] = {}
    for branch, tensors in branches.items():
        if not any(
            tensors.keys() == other.keys() and all(_equal(t, other[n]) for n, t in tensors.items())
            for other in distinct.values()
        ):
            distinct[branch] = tensors
    return distinct


def _equal(one: Tensor, other: Tensor) -> bool:
    facts = [(t.dtype, t.shape, t.layout) for t in (one, other)]
    if facts[0] != facts[1] or one.layout != torch.strided:
        return one is other
    return torch.equal(one, other)
