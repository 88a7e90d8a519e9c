"""Loaded engines: how they are opened, and what can be asked of one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pconv_deploy.engines.shapes import Size
from pconv_deploy.parity import Arrays


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run an engine.

    threads  of one inference; None lets the runtime choose
    streams  inferences that run at once when as many threads call; more of them wait
    """

    threads: int | None = None
    streams: int = 1


@dataclass(frozen=True)
class EngineFiles:
    """A runtime's files, of which it loads what was checked, whatever lies in the folder by then.

    folder  for messages
    read    a file's whole content, checked as it is read
    held    a path to a file that stays open in the block, and was checked: for runtimes that would
            keep what `read` gives beside their own copy
    """

    folder: Path
    read: Callable[[str], bytes]
    held: Callable[[str], AbstractContextManager[Path]]


def files_just_built(folder: Path) -> EngineFiles:
    """Return the files that `Backend.build` has written into a private folder."""
    return EngineFiles(
        folder,
        read=lambda name: (folder / name).read_bytes(),
        held=lambda name: nullcontext(folder / name),
    )


class Session(Protocol):
    """A loaded engine. `run` may be called from several threads at once."""

    def run(self, inputs: Arrays) -> Arrays:
        """Compute every output from every input, by the names of the contract.

        Raises:
            EngineError: the runtime failed; the message says with which shapes.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds; no `run` may follow."""
        ...


@runtime_checkable
class WindowedSession(Session, Protocol):
    """A session that computes only the windows of a frame that its holes need."""

    def run_within(self, inputs: Arrays, sizes: Sequence[Size]) -> Arrays:
        """Do as `run`, for padded images: what is beyond (height, width) of each may be anything.

        Raises:
            EngineError: as `run`.
        """
        ...


DeviceArrays = Mapping[str, Any]  # on a GPU, by the names of the contract


@runtime_checkable
class DeviceSession(Session, Protocol):
    """A session that also takes and returns arrays on the GPU."""

    def run_on_device(
        self, inputs: DeviceArrays, stream: Any = None, outputs: DeviceArrays | None = None
    ) -> DeviceArrays:
        """Compute every output on the GPU, in the order of `stream`."""
        ...
