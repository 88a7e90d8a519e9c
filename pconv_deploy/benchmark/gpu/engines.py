"""Engines in a GPU report: built, accepted, and opened as they are measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.benchmark.gpu.steps import Progress, Step
from pconv_deploy.contract import FILLED, IMAGE, GraphContract
from pconv_deploy.engines.backends.onnxruntime.gpu import OnnxRuntimeGpuBackend
from pconv_deploy.engines.backends.tensorrt.backend import PLAN, TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.library import load
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.base import Backend
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.integrity import unchanged_files
from pconv_deploy.engines.manifest import Manifest, describe_parity
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.engines.shapes import Profile, Shape
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.parity import Arrays, Precision, parity_batches

_UNTIL_CAPTURED = 8  # runs


def engine_ready(
    graph: Path, folder: Path, shapes: Sequence[Shape], kind: tuple[str, Precision], tell: Progress
) -> "EngineReady":
    """Build an engine and accept it.

    Args:
        graph: what to build.
        folder: of engines.
        shapes: (batch, height, width) that will be measured.
        kind: backend and precision.
        tell: is told each step.

    Raises:
        PConvError: this machine cannot run it, or it is not accepted.
    """
    name, precision = kind
    backend = backend_named(name)
    if why := backend.why_not_run() or backend.why_not(precision):
        raise EngineError(why)
    engine = folder / f"{name}-{precision}.engine"
    tensorrt = None
    if isinstance(backend, TensorRtBackend):
        tensorrt = TensorRtOptions(profiles=profiles(shapes, read_graph(graph).contract))
    options = BuildOptions(backend=name, precision=precision, backend_options=tensorrt)
    manifest = build_engine(graph, engine, options, overwrite=True, progress=tell)
    return EngineReady(backend, engine, manifest)


def profiles(shapes: Sequence[Shape], contract: GraphContract) -> tuple[Profile, ...]:
    """One for each shape that is measured, and one for those an engine is accepted on."""
    accepted = [(len(cases), *cases[0].hole_mask.shape) for cases in parity_batches(contract)]
    low, high = (tuple(pick(sides) for sides in zip(*accepted, strict=True)) for pick in (min, max))
    exact = [Profile(min=shape, opt=shape, max=shape) for shape in shapes]
    return (
        *exact,
        Profile(min=cast("Shape", low), opt=cast("Shape", high), max=cast("Shape", high)),
    )


class EngineReady:
    """An accepted engine, opened with CUDA graphs and without."""

    def __init__(self, backend: Backend, engine: Path, manifest: Manifest) -> None:
        self.runs_on = backend.runtime().describe()
        self.accepted: str | None = describe_parity(manifest)
        self._backend, self._engine, self._manifest = backend, engine, manifest
        self._sessions: dict[bool, Any] = {}

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        graphs = setting.cuda_graph
        if isinstance(self._backend, OnnxRuntimeGpuBackend):
            if graphs and setting.transfers:
                raise EngineError("ONNX Runtime replays graphs only on arrays that stay on the GPU")
            # Such a session captures one graph, of the shapes and addresses of its first runs,
            # and replays it whatever comes later.
            self._close(graphs=True)
        if graphs not in self._sessions:
            self._sessions[graphs] = self._open(graphs=graphs)
        session = self._sessions[graphs]
        if isinstance(self._backend, OnnxRuntimeGpuBackend):
            if setting.transfers:
                return _from_host_to_host(session, inputs)
            resident = session.resident(inputs, {FILLED: np.zeros_like(inputs[IMAGE])})
            return Step(resident.run, lambda: resident.read()[FILLED])
        step = (_from_host_to_host if setting.transfers else _on_device)(session, inputs)
        return _by_graph(session, step) if graphs else step

    def close(self) -> None:
        for graphs in (True, False):
            self._close(graphs=graphs)

    def _close(self, *, graphs: bool) -> None:
        if session := self._sessions.pop(graphs, None):
            session.close()

    def _open(self, *, graphs: bool) -> Any:
        backend = self._backend
        files = unchanged_files(self._engine, self._manifest)
        if isinstance(backend, OnnxRuntimeGpuBackend):
            chosen = backend.with_cuda_graphs() if graphs else backend
            return chosen.open(files, self._manifest.precision, RunOptions())
        assert isinstance(backend, TensorRtBackend)
        return TensorRtSession(load(backend.flavour), files.read(PLAN), RunOptions(), graphs=graphs)


def _from_host_to_host(session: Any, inputs: Arrays) -> Step:
    last: NDArray[np.uint8] = np.zeros_like(inputs[IMAGE])

    def run() -> None:
        nonlocal last
        last = session.run(inputs)[FILLED]

    return Step(run, lambda: last)


def _by_graph(session: Any, step: Step) -> Step:
    """Run until there is a CUDA graph; each run from then on has to be one.

    A session goes on without where it cannot capture, and says so in its log alone.
    """

    def was_graph() -> bool:
        before = session.runs_by_graph
        step.run()
        return bool(session.runs_by_graph > before)

    def run() -> None:
        if not was_graph():
            raise EngineError("it runs without a CUDA graph; the log says why")

    if not any(was_graph() for _ in range(_UNTIL_CAPTURED)):
        run()
    return Step(run, step.filled)


def _on_device(session: Any, inputs: Arrays) -> Step:
    there = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
    results = {FILLED: torch.zeros_like(there[IMAGE])}
    torch.cuda.synchronize()
    return Step(
        lambda: session.run_on_device(there, outputs=results),
        lambda: results[FILLED].cpu().numpy(),
    )
