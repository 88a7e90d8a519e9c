"""One process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pconv_deploy.errors import UsageError
from pconv_deploy.files import is_still


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes, and other threads, from the same block for the same `path`.

    The lock is a file `.NAME.lock` beside it, which is gone afterwards; whoever held it and died
    holds it no longer.

    Args:
        path: what is worked on; it need not exist, its folder must.
        wait: for the others, or raise.

    Raises:
        UsageError: another one is at it, and `wait` is false.
        OSError: the folder is not there or not writable.
    """
    beside = path.with_name(f".{path.name}.lock")
    descriptor = _acquired(beside, path, wait)
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)  # while it is held: who waits notices, and makes its own
        os.close(descriptor)


def _acquired(beside: Path, path: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(beside, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if is_still(beside, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"{path} is being built by another process; wait for it, or choose another name"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
