"""What a contender of a GPU report gets ready for, and how its runs are timed and looked at."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.parity import Arrays

Progress = Callable[[str], None]
WARM_UP = 3


@dataclass(frozen=True)
class Step:
    """Ready to run at one setting.

    run     does the work once, and waits until it is done
    filled  gives what the last run filled, (N, H, W, 3) uint8, wherever it lies
    """

    run: Callable[[], Any]
    filled: Callable[[], NDArray[np.uint8]]


class Ready(Protocol):
    """A contender that can run; `runs_on` and `accepted` are those of `Participant`."""

    runs_on: str
    accepted: str | None

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        """Make ready to run on these inputs, shaped as `setting` says.

        Raises:
            Exception: it cannot; the first line of the message says why.
        """
        ...

    def close(self) -> None: ...


class Fills:
    """Reference fills by image size; the other contenders have to agree."""

    def __init__(self) -> None:
        self._first: dict[int, NDArray[np.uint8]] = {}

    def levels(self, filled: NDArray[np.uint8]) -> int | None:
        """Compare fills (N, S, S, 3) of one photo with the first of this side.

        Returns:
            The most of 0..255 that a byte is off; None for the first itself.
        """
        side = filled.shape[1]
        if side not in self._first:
            self._first[side] = filled[0].copy()
            return None
        first = self._first[side].astype(np.int16)
        return max(int(np.abs(one.astype(np.int16) - first).max()) for one in filled)


def timed(run: Callable[[], Any], rounds: int, limit: float) -> list[float]:
    """Run a few times unseen, then measure in seconds; stop after `limit` of them.

    What compiles, tunes or captures on its first runs does so unseen.
    """
    for _ in range(WARM_UP):
        run()
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < rounds and time.perf_counter() - begun < limit:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds
