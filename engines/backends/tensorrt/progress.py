"""How far TensorRT's builder is, and how to stop it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

from pconv_deploy.engines.base import Progress


class PartDone(str):
    """A step of which it is known how much is done, from 0 to 1."""

    share: float
    __slots__ = ("share",)

    def __new__(cls, text: str, share: float) -> "PartDone":
        step = super().__new__(cls, text)
        step.share = share
        return step


class Phases:
    """The builder's phases, which lie within each other, as one share of the whole.

    Its threads may call at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # name -> (share where it starts, share of each of its steps, steps, steps done)
        self._running: dict[str, tuple[float, float, int, int]] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase within the step that its parent is at; None: the whole."""
        with self._lock:
            begin, width = 0.0, 1.0 if parent is None else 0.0
            if parent in self._running:
                above, width, _, done = self._running[parent]
                begin = above + done * width
            self._running[name] = (begin, width / max(steps, 1), max(steps, 1), 0)

    def step(self, name: str, number: int) -> None:
        """Step `number`, counted from 0, is done."""
        with self._lock:
            if name in self._running:
                begin, width, steps, _ = self._running[name]
                done = min(number + 1, steps)
                self._running[name] = (begin, width, steps, done)
                self._share = max(self._share, min(begin + done * width, 1.0))

    def finish(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)

    def share(self) -> float:
        """How much is done, from 0 to 1; it never falls."""
        return self._share


def new_monitor(library: ModuleType, title: str, progress: Progress) -> Any:
    """A TensorRT progress monitor that tells `progress` each percent.

    If that raises, the build stops, and what it raised is `stopped_by`. Setting `cancelled` stops
    the build as well. It must live as long as the builder's config.
    """

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.stopped_by: BaseException | None = None
            self._phases = Phases()
            self._told = -1

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases.start(name, parent, steps)
            self._tell(name)

        def step_complete(self, name: str, number: int) -> bool:
            self._phases.step(name, number)
            self._tell(name)
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            self._phases.finish(name)

        def _tell(self, name: str) -> None:
            share = self._phases.share()
            percent = int(100 * share)
            if percent <= self._told or self.cancelled:
                return
            self._told = percent
            try:
                progress(PartDone(f"{title}: {percent} %, {name.lower()}", share))
            except BaseException as error:  # noqa: BLE001  it must not pass through TensorRT
                self.stopped_by, self.cancelled = error, True

    return Monitor()


@contextlib.contextmanager
def stoppable(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop a build between two of its steps, and do then what they do.

    A signal's handler would otherwise raise in the midst of TensorRT, which ends the process.

    Raises:
        whatever stopped the build, once it has stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
    else:
        received: list[int] = []

        def stop(number: int, _frame: FrameType | None) -> None:
            received.append(number)
            monitor.cancelled = True

        before = {
            number: signal.signal(number, stop)
            for number in (signal.SIGINT, signal.SIGTERM)
            if callable(signal.getsignal(number))
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
