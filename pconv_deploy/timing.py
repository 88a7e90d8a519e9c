"""Compare how fast several functions are: they take turns in one process.

Whatever disturbs the machine for a while then disturbs all of them, and cancels out in the ratios
of one round.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Contender:
    """A function that is timed.

    run          does the work once
    pause        seconds before each turn: the threads of the turn before still spin, waiting for
                 more work
    synchronise  waits until a GPU has finished; None if `run` returns only when all is done
    """

    run: Callable[[], Any]
    pause: float = 0.2
    synchronise: Callable[[], None] | None = None

    def take_turn(self) -> float:
        """Run once; return the seconds of wall-clock time that it took."""
        time.sleep(self.pause)
        if self.synchronise:
            self.synchronise()
        start = time.perf_counter()
        self.run()
        if self.synchronise:
            self.synchronise()
        return time.perf_counter() - start


def take_turns(
    contenders: Mapping[str, Contender],
    rounds: int,
    *,
    warm_up: int,
    limit: float = math.inf,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, list[float]]:
    """Let each contender run once per round; return the seconds of each, by round.

    Args:
        contenders: by name; they run in this order.
        rounds: timed rounds, at least 1.
        warm_up: untimed rounds before them, in which contenders compile, tune or capture.
        limit: seconds of timed rounds after which no further round begins.
        progress: is told the rounds done and their number, both with the warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    begun = 0.0
    for number in range(warm_up + rounds):
        if number == warm_up:
            begun = time.perf_counter()
        elif number > warm_up and time.perf_counter() - begun >= limit:
            break
        for name, contender in contenders.items():
            turn = contender.take_turn()
            if number >= warm_up:
                seconds[name].append(turn)
        progress(number + 1, warm_up + rounds)
    return seconds


def milliseconds(seconds: Sequence[float], *percentiles: int) -> list[float]:
    """Return percentiles (0..100) of times in seconds, in milliseconds."""
    return [1e3 * float(value) for value in np.percentile(seconds, percentiles)]


@dataclass(frozen=True)
class Ratio:
    """How many times faster than a reference: median over the rounds, 10th and 90th percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, reference: Sequence[float], seconds: Sequence[float]) -> "Ratio":
        """Compare times round by round: reference / seconds."""
        low, middle, high = np.percentile(np.divide(reference, seconds), (10, 50, 90)).tolist()
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.p10:.2f}-{self.p90:.2f})"


def peak_mib() -> float | None:
    """Return the peak resident memory of this process, MiB; None where the system has no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    # Not getrusage: its maximum is inherited from the parent process.
    return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) / 1024
