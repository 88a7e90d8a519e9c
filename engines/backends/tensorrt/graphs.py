"""Which CUDA graphs a worker keeps, which it tries to capture, and which it gives up."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from pconv_deploy.engines.backends.tensorrt.cuda.streams import Graph

MOST_GRAPHS = 16
MOST_ATTEMPTS = 3  # another thread that waits for the whole GPU spoils one
IDLE_RUNS = 4096


@dataclass(frozen=True)
class Captured:
    """A graph and its context, which nothing else may touch: the graph relies on its state."""

    graph: Graph
    context: Any


@dataclass
class _Slot:
    """What became of one graph, and the number of the last run that asked for it."""

    used: int
    captured: Captured | None = None
    failures: int = 0


class GraphCache:
    """The graphs of one worker, each by whatever it holds fixed.

    It keeps MOST_GRAPHS; one that was not asked for in IDLE_RUNS runs makes room for another. So
    what is in use is not dropped for what will be dropped in turn, however many come in a circle.
    """

    def __init__(self) -> None:
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()  # the last used at the end
        self._runs = 0

    def find(self, key: Hashable) -> Captured | None:
        """The graph of a run, if there is one; to be asked once in each run."""
        self._runs += 1
        slot = self._slots.get(key)
        if slot is None:
            return None
        slot.used = self._runs
        self._slots.move_to_end(key)
        return slot.captured

    def lacks(self, key: Hashable) -> bool:
        """Whether a graph should be captured: there is none, and room, and hope."""
        if slot := self._slots.get(key):
            return slot.captured is None and slot.failures < MOST_ATTEMPTS
        if len(self._slots) < MOST_GRAPHS:
            return True
        oldest = next(iter(self._slots.values()))
        return self._runs - oldest.used >= IDLE_RUNS

    def keep(self, key: Hashable, captured: Captured) -> None:
        """Have a graph from now on; none of the worker's may be running."""
        self._slot(key).captured = captured

    def fail(self, key: Hashable) -> bool:
        """Note a failed attempt, while no graph is running; return whether it was the last."""
        slot = self._slot(key)
        slot.failures += 1
        return slot.failures >= MOST_ATTEMPTS

    def close(self) -> None:
        """Destroy all; none may be running."""
        while self._slots:
            self._drop_oldest()

    def _slot(self, key: Hashable) -> _Slot:
        if key not in self._slots:
            if len(self._slots) == MOST_GRAPHS:
                self._drop_oldest()
            self._slots[key] = _Slot(used=self._runs)
        return self._slots[key]

    def _drop_oldest(self) -> None:
        _, slot = self._slots.popitem(last=False)
        if slot.captured:
            slot.captured.graph.close()
