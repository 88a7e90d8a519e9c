"""The protocol between us and a runtime: what one must do to be a backend."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.sessions import EngineFiles, RunOptions, Session
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.parity import Arithmetic, Precision

Progress = Callable[[str], None]


def ignore_progress(_step: str) -> None:
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


class Layer(NamedTuple):
    """A convolution of an engine.

    precision  that the runtime computes it in
    name       of its node in the graph that was built; empty: not known
    work       multiply-adds, for images of any one size: only ratios matter
    """

    precision: Precision
    name: str = ""
    work: int = 1


class Built(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backend says of the engine that it has built; the manifest keeps it.

    profiles         the shapes that the engine takes; none: those of its graph
    arithmetic       what it is judged by, where that is coarser than its precision
    weights_missing  it cannot run before a refit
    later_releases   later releases of its runtime may open it
    notes            for people
    details          a JSON object that only the backend reads
    """

    profiles: tuple[Profile, ...] = ()
    arithmetic: Arithmetic | None = None
    weights_missing: bool = False
    later_releases: bool = False
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What holds for every engine of a backend.

    device            that it runs on, for people; "cpu" for the processor
    extra             of our package that installs what it needs
    typed             the types in the graph alone decide what it computes in
    rounds_results    it computes in eight bits only what it may also leave in eight bits
    symmetric_codes   int8 features have codes around zero: others cost the runtime its int8 kernels
    opens_after_fork  a process forked from one that has an engine open can open one itself
    portable          engines open on machines of another kind, where they prove themselves
    same_gpu          an engine opens only on the kind of GPU that it was built on
    repeatable        two builds of one graph compute the same
    windows           it runs a decoder on windows of the frame, see `engines.windows`
    """

    device: str
    extra: str
    typed: bool = False
    rounds_results: bool = False
    opens_after_fork: bool = False
    symmetric_codes: bool = False
    portable: bool = True
    same_gpu: bool = False
    repeatable: bool = True
    windows: bool = False


class Backend(Protocol):
    """A runtime that turns exported graphs into files of its own and runs them."""

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> Traits: ...

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

    def why_not_open(self, built_with: Runtime, built: Built) -> str | None:
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
        progress: Progress = ignore_progress,
    ) -> Built:
        """Write the runtime's files for an ONNX file's content into the empty `folder`.

        A graph for int8 comes quantised. A builder that takes long tells `progress` how far it
        is, and stops if that raises.

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

    def layers(
        self, files: EngineFiles, contract: GraphContract, precision: Precision
    ) -> Sequence[Layer]:
        """Ask the runtime what it computes each convolution in."""
        ...


@runtime_checkable
class SharingBackend(Backend, Protocol):
    """A backend whose entries of one engine share files, and memory for them."""

    def share(self, first: Path, second: Path) -> tuple[str, ...]:
        """Let files in `second`, just built, serve the entry in `first`, too; return their names.

        Nothing in `first` changes.
        """
        ...


@runtime_checkable
class BackendWithOptions(Backend, Protocol):
    """A backend that has build options of its own."""

    @property
    def options(self) -> msgspec.Struct: ...

    @property
    def options_type(self) -> type[msgspec.Struct]: ...

    def with_options(self, options: msgspec.Struct) -> "Backend":
        """Return the backend that builds with these options, of its `options_type`.

        Raises:
            UsageError: they contradict each other, or this backend has no such.
        """
        ...

    def recorded_options(self, built: Built) -> msgspec.Struct:
        """Return the options that an engine was built with."""
        ...

    def describe(
        self, built: Built, read: Callable[[str], bytes]
    ) -> Mapping[str, str | Mapping[str, str]]:
        """Return what only this backend knows of an engine, for people.

        `read` returns a file's whole content, or raises EngineError; a file that cannot be read
        is reported where its facts would be.

        Raises:
            EngineError: `built` is not what this backend records.
        """
        ...

    def changed_options(self, options: msgspec.Struct) -> Mapping[str, object]:
        """Return the options that are not the defaults, as `Remedy.options` has them."""
        ...


@runtime_checkable
class RefittableBackend(BackendWithOptions, Protocol):
    """A backend that puts other weights into an engine that it has built."""

    def why_not_refit(self, built: Built) -> str | None:
        """Say why no other weights can be put into an engine, or None if they can."""
        ...

    def only_own_weights(self, built: Built) -> bool:
        """Whether an engine takes the weights of the graph it was built from, and no others."""
        ...

    def with_weights(self, built: Built) -> Built:
        """Return what holds of an engine once its weights are in."""
        ...

    def refit(
        self, files: EngineFiles, graph: bytes, built: Built
    ) -> tuple[dict[str, bytes], Built]:
        """Put a graph's weights into an engine: return the files that change, and what holds now.

        Raises:
            EngineError: the runtime cannot.
        """
        ...
