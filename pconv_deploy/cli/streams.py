"""Standard output and standard error, made safe to write to.

A terminal, pipe or file behind them may lack characters (a C locale), be full or be closed. None
of that may end in a traceback after the work is done.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from pconv_deploy.errors import OutputError


class _Guarded:
    """A text stream that reports its write errors as OutputError, or drops them."""

    def __init__(self, stream: TextIO, *, drop_errors: bool) -> None:
        self._stream = stream
        self._drop_errors = drop_errors

    def write(self, text: str) -> int:
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is still buffered would fail again when the interpreter exits.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self._drop_errors:
                raise OutputError(
                    f"cannot write to standard output: {error.strerror}. Files that the command "
                    "wrote before are complete"
                ) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def reopen_closed_streams() -> None:
    """Put something in the place of closed standard streams, before a file of ours takes it.

    Otherwise a library that prints would write into that file. Standard output is replaced by what
    cannot be written to, so that what gets lost is reported.
    """
    for descriptor, access in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, access)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  for good


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Escape characters that a stream cannot encode, and check that all output is written.

    Errors on standard error are dropped: there is nowhere left to report them, and they must not
    stop the work.

    Raises:
        OutputError: standard output is full or closed.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (
        stream and _Guarded(stream, drop_errors=stream is before[1]) for stream in before
    )
    try:
        yield
    finally:
        guarded = sys.stdout
        sys.stdout, sys.stderr = before
        if guarded:
            guarded.flush()
