"""The protocol between us and a runtime: what one must do to be a backend."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pconv_deploy.contract import GraphContract
from pconv_deploy.export.rewrites.forms import Arrangement
from pconv_deploy.parity import Arrays, Precision


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The installed package behind a backend."""

    package: str
    version: str

    def can_open(self, built_with: "Runtime") -> bool:
        """Patch releases may differ; anything more was not what the engine was accepted with."""
        same_release = self.version.split(".")[:2] == built_with.version.split(".")[:2]
        return self.package == built_with.package and same_release


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run an engine.

    threads  of one inference; None lets the runtime choose
    streams  inferences that run at once when as many threads call; more of them wait
    """

    threads: int | None = None
    streams: int = 1


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
    def arrangement(self) -> Arrangement:
        """Which of the equal forms of a graph is usually the fastest."""
        ...

    @property
    def rounds_results(self) -> bool:
        """Whether it computes in eight bits only what it may also leave in eight bits."""
        ...

    def runtime(self) -> Runtime:
        """Say what is installed.

        Raises:
            MissingRuntimeError: nothing, or nothing that loads.
        """
        ...

    def why_not(self, precision: Precision) -> str | None:
        """Say why engines of this precision cannot run here, or None if they can.

        A runtime that would quietly compute in another one cannot.
        """
        ...

    def build(
        self, graph: bytes, contract: GraphContract, precision: Precision, folder: Path
    ) -> None:
        """Write the runtime's files for an ONNX file's content into the empty `folder`.

        A graph for int8 comes quantised.
        """
        ...

    def open(self, folder: Path, precision: Precision, options: RunOptions) -> Session:
        """Load files that `build` wrote; they are already known to be unchanged.

        Raises:
            EngineError: the runtime refuses them, or would compute in another precision.
        """
        ...

    def executed(
        self, folder: Path, contract: GraphContract, precision: Precision
    ) -> Mapping[Precision, int]:
        """Count the convolutions by the precision the runtime computes them in, asking it."""
        ...
