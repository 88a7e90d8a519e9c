"""The protocol between us and a runtime: what one must do to be a backend."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.options import PlanFacts
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.parity import Arrays, Precision

Progress = Callable[[str], None]


def silent(_step: str) -> None:
    """Discard progress."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU and its driver; memory in bytes, cuda is the newest version the driver takes."""

    name: str
    compute_capability: str
    memory: int
    driver: str
    cuda: str

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.name}, compute capability {self.compute_capability}, "
            f"{self.memory >> 20:,} MiB, driver {self.driver} for CUDA {self.cuda}"
        )


class Runtime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The installed package behind a backend, and the GPU it would run on."""

    package: str
    version: str
    gpu: Gpu | None = None

    def describe(self) -> str:
        """One phrase for people."""
        on = f" on {self.gpu.name} ({self.gpu.compute_capability})" if self.gpu else ""
        return f"{self.package} {self.version}{on}"


def another_release(installed: Runtime, built_with: Runtime) -> str | None:
    """Say so, unless only the patch release differs from what an engine was accepted with."""
    same = installed.version.split(".")[:2] == built_with.version.split(".")[:2]
    if installed.package == built_with.package and same:
        return None
    return "an engine is accepted for one release"


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


class Backend(Protocol):
    """A runtime that turns exported graphs into files of its own and runs them."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def typed(self) -> bool:
        """Whether the types in the graph alone decide what it computes in."""
        ...

    @property
    def rounds_results(self) -> bool:
        """Whether it computes in eight bits only what it may also leave in eight bits."""
        ...

    @property
    def opens_after_fork(self) -> bool:
        """Whether a process forked from one that has an engine open can open one itself."""
        ...

    @property
    def why_finer(self) -> str:
        """Why it may compute some convolutions of an engine in fp32; empty: not known."""
        ...

    def runtime(self) -> Runtime:
        """Say what is installed.

        Raises:
            MissingRuntimeError: nothing, or nothing that loads.
        """
        ...

    def usual_form(self, precision: Precision) -> Arrangement:
        """Which of the equal forms of a graph is usually the fastest."""
        ...

    def why_not(self, precision: Precision) -> str | None:
        """Say why there are no engines of this precision here, or None if there are.

        A runtime that would quietly compute in another one has none.
        """
        ...

    def why_not_run(self) -> str | None:
        """Say why this machine can build engines at most, or None if it runs them."""
        ...

    def why_not_open(self, built_with: Runtime, plan: PlanFacts | None) -> str | None:
        """Say why what is installed here opens no engine that was built so, or None if it may."""
        ...

    def why_unproved(self, built_with: Runtime) -> str | None:
        """Say why what was found with another runtime may not hold here, or None if it does."""
        ...

    def build(
        self,
        graph: bytes,
        contract: GraphContract,
        precision: Precision,
        folder: Path,
        progress: Progress = silent,
    ) -> PlanFacts | None:
        """Write the runtime's files for an ONNX file's content into the empty `folder`.

        A graph for int8 comes quantised. What TensorRT's builder tells is returned. A builder
        that takes long tells `progress` how far it is, and stops if that raises.

        Raises:
            EngineError: the runtime cannot build it.
        """
        ...

    def open(self, files: EngineFiles, precision: Precision, options: RunOptions) -> Session:
        """Load files that `build` wrote, by `files.read` or `files.held` alone.

        Raises:
            EngineError: the runtime refuses them, or would compute in another precision.
        """
        ...

    def executed(
        self, files: EngineFiles, contract: GraphContract, precision: Precision
    ) -> Mapping[Precision, int]:
        """Count the convolutions by the precision the runtime computes them in, asking it."""
        ...
