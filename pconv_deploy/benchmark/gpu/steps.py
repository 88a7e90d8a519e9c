"""What a contender of a GPU report is, and how its fills are checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Arrays

Progress = Callable[[str], None]
WARM_UP = 3  # runs
# Fills that are further from the reference's are none of this photo. Half precision is a few
# levels off; memory that was not written, or the fill of another shape, most of 255.
_FARTHEST = 32


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


@dataclass(frozen=True)
class GpuContender:
    """A contender that may take part; `prepare` raises if it cannot."""

    name: str
    prepare: Callable[[Progress], Ready]


class Fills:
    """Reference fills by image size; the other contenders have to agree."""

    def __init__(self) -> None:
        self._first: dict[int, NDArray[np.uint8]] = {}

    def levels(self, filled: NDArray[np.uint8]) -> int | None:
        """Compare fills (N, S, S, 3) of one photo with the first of this side.

        Returns:
            The most of 0..255 that a byte is off; None for the first itself.

        Raises:
            EngineError: it is no fill of the photo, so its time would be that of something else.
        """
        side = filled.shape[1]
        if side not in self._first:
            self._first[side] = filled[0].copy()
            return None
        first = self._first[side].astype(np.int16)
        levels = max(int(np.abs(one.astype(np.int16) - first).max()) for one in filled)
        if levels > _FARTHEST:
            raise EngineError(
                f"its fill is {levels} of 255 off the first contender's: it is another"
            )
        return levels
