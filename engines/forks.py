"""Loaded engines in forked processes: the child opens its own and leaves the parent's alone.

Runtimes have threads and locks of their own, and `fork` copies none of the threads. In the child, a
call of an inherited session waits for threads that do not exist, and so does its destructor, or
it crashes. So the child never calls it and never frees it, not even when the child ends.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from pconv_deploy.engines.base import Session
from pconv_deploy.engines.cuda.arrays import DeviceArrays, RunsOnDevice
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import Arrays


def safe_to_fork(session: Session, reopen: Callable[[], Session]) -> Session:
    """Return a session that may be used in processes forked from this one, too.

    Args:
        session: a loaded engine.
        reopen: open the same engine in a child, where its first call needs it. An exception that
            this raises is raised by that call.
    """
    loaded = _Loaded(session, reopen)
    if isinstance(session, RunsOnDevice):
        return _DeviceSession(loaded)
    return _HostSession(loaded)


class _Loaded:
    """A session and the process that it belongs to."""

    def __init__(self, session: Session, reopen: Callable[[], Session]) -> None:
        self._session: Session | None = session  # None: of another process, or closed
        self._reopen = reopen
        self._closed = False
        self._changing = threading.Lock()
        _ALL.add(self)

    def session(self) -> Any:
        """Return this process's session; open it if there is none yet."""
        with self._changing:
            if self._closed:
                raise EngineError("the engine is closed")
            if self._session is None:
                self._session = self._reopen()
            return self._session

    def close(self) -> None:
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


class _HostSession:
    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded

    def run(self, inputs: Arrays) -> Arrays:
        outputs: Arrays = self._loaded.session().run(inputs)
        return outputs

    def close(self) -> None:
        self._loaded.close()


class _DeviceSession:
    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded

    def run(self, inputs: Arrays) -> Arrays:
        outputs: Arrays = self._loaded.session().run(inputs)
        return outputs

    def run_on_device(
        self, inputs: DeviceArrays, stream: Any = None, outputs: DeviceArrays | None = None
    ) -> DeviceArrays:
        results: DeviceArrays = self._loaded.session().run_on_device(inputs, stream, outputs)
        return results

    def close(self) -> None:
        self._loaded.close()


def never_free(thing: object) -> None:
    """Take a reference that is never given back: no destructor runs, not even at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_ALL: weakref.WeakSet[_Loaded] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for loaded in list(_ALL):
        loaded.leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
