"""Ctrl-C and SIGTERM: a clean end, whenever they come and however often."""

import atexit
import contextlib
import os
import signal
import time
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # exit codes
_SAME_REQUEST = 1.0  # seconds: some shells and launchers send a signal twice
_SHOW_CURSOR = b"\x1b[?25h"


def end_cleanly() -> None:
    """Let the first signal unwind, so that what is half done is cleared; a later one ends at once.

    With Python's own handler a second Ctrl-C would interrupt the clean-up of the first, and one
    that comes while the interpreter exits would print a traceback.
    """
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    atexit.register(stop.leave)


class _Stop:
    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        if time.monotonic() > self._since + _SAME_REQUEST:
            _end_at_once(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    def leave(self) -> None:
        """Nothing is left to unwind: from now on every signal ends at once."""
        if self._since is None:
            self._since = -_SAME_REQUEST


def _end_at_once(code: int) -> None:
    # A progress bar hides the cursor. Nothing is flushed: a stream may be what blocks.
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
    os._exit(code)
