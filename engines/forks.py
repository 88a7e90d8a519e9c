"""Loaded engines in forked processes: the child opens its own and leaves the parent's alone.

Runtimes have threads and locks of their own, and `fork` copies none of the threads. In the child, a
call of an inherited session waits for threads that do not exist, and so does its destructor, or
it crashes. So the child never calls it and never frees it, not even when the child ends. A lock
that another thread holds at the fork stays locked in the child, so a fork waits for running calls.
"""

import contextlib
import ctypes
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from pconv_deploy.engines.sessions import DeviceArrays, DeviceSession, Session, WindowedSession
from pconv_deploy.engines.shapes import Size
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import Arrays


def safe_to_fork(load: Callable[[], Session], reopen: Callable[[], Session]) -> Session:
    """Load an engine; return a session that may be used in processes forked from this one, too.

    Args:
        load: open it now.
        reopen: open it in a child, at its first call there, which raises what this raises.
    """
    with _gate.no_fork():
        session = load()
    loaded = _Loaded(session, reopen)
    return _LoadedOnDevice(loaded) if isinstance(session, DeviceSession) else loaded


class _Gate:
    """Calls of runtimes, which go on beside each other, but not while the process forks."""

    def __init__(self) -> None:
        self._inside: Counter[int] = Counter()  # calls by thread
        self._forking = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def no_fork(self) -> Iterator[None]:
        """Let forks by other threads wait until the end of the block."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking or me in self._inside)
            self._inside[me] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                self._inside += Counter()  # without threads that are not inside
                self._changed.notify_all()

    def before_fork(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._forking = True
            # A call may hang for a reason of its own.
            self._changed.wait_for(lambda: self._inside.keys() <= {me}, _LONGEST_WAIT)

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


class _Loaded:
    """A session that each process has of its own."""

    def __init__(self, session: Session, reopen: Callable[[], Session]) -> None:
        self._session: Session | None = session  # None: of another process, or closed
        self._reopen = reopen
        self._closed = False
        self._changing = threading.Lock()
        _ALL.add(self)

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """Give this process's session for a call; open it if there is none yet."""
        with _gate.no_fork():
            with self._changing:
                if self._closed:
                    raise EngineError("the engine is closed")
                if self._session is None:
                    self._session = self._reopen()
                session = self._session
            yield session

    def run(self, inputs: Arrays) -> Arrays:
        with self.session() as session:
            outputs: Arrays = session.run(inputs)
            return outputs

    def run_within(self, inputs: Arrays, sizes: Sequence[Size]) -> Arrays:
        with self.session() as session:
            windowed = isinstance(session, WindowedSession)
            outputs: Arrays = session.run_within(inputs, sizes) if windowed else session.run(inputs)
            return outputs

    def close(self) -> None:
        with _gate.no_fork():
            with self._changing:
                self._closed = True
                session, self._session = self._session, None
            if session is not None:
                session.close()

    def leave_to_parent(self) -> None:
        """Forget the parent's session, in a child that has just been forked."""
        never_free(self._session)
        self._session = None
        self._changing = threading.Lock()  # a thread that was not copied may hold the old one

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a loaded engine can neither be copied nor sent to another process; send the name of "
            "its folder, and load it there (docs/embedding.md)"
        )


class _LoadedOnDevice:
    """A loaded session that also takes and returns arrays on the GPU."""

    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        self.run, self.close = loaded.run, loaded.close

    def run_on_device(
        self, inputs: DeviceArrays, stream: Any = None, outputs: DeviceArrays | None = None
    ) -> DeviceArrays:
        with self._loaded.session() as session:
            results: DeviceArrays = session.run_on_device(inputs, stream, outputs)
            return results


def never_free(thing: object) -> None:
    """Take a reference that is never given back: no destructor runs, not even at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_LONGEST_WAIT = 60.0  # seconds
_ALL: weakref.WeakSet[_Loaded] = weakref.WeakSet()
_gate = _Gate()


def _begin_in_child() -> None:
    global _gate
    _gate = _Gate()
    for loaded in list(_ALL):
        loaded.leave_to_parent()


os.register_at_fork(
    before=lambda: _gate.before_fork(),
    after_in_parent=lambda: _gate.after_fork_in_parent(),
    after_in_child=_begin_in_child,
)
