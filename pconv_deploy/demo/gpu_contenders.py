"""Who takes part in a GPU report: PyTorch three ways, and every backend for GPUs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_deploy.checkpoint import load_checkpoint
from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.demo.gpu_results import Setting
from pconv_deploy.engines.backends.onnxruntime_gpu import OnnxRuntimeGpuBackend
from pconv_deploy.engines.base import Backend, RunOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.manifest import Manifest, describe_parity
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.tensorrt.options import Profile, Shape, TensorRtOptions
from pconv_deploy.errors import EngineError
from pconv_deploy.export.graphs import DeploymentGraph
from pconv_deploy.networks import for_inference
from pconv_deploy.onnx_file import read_graph
from pconv_deploy.parity import Arrays, Precision, parity_batches

# Does the work once, waits until it is done, and gives the composites if they came back.
Step = Callable[[], Any]
Progress = Callable[[str], None]
# By backend: what its engines compute in. fp32 is beside PyTorch's, fp16 is what is deployed.
_ENGINES: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime-cuda", "fp32"),
    ("onnxruntime-cuda", "fp16"),
    ("onnxruntime-tensorrt", "fp16"),
    ("onnxruntime-tensorrt-rtx", "fp16"),
    ("tensorrt", "fp32"),
    ("tensorrt", "fp16"),
    ("tensorrt-rtx", "fp16"),
)
_WARM_UP = 3


class Ready(Protocol):
    """A contender that can run; `runs_on` and `accepted` are those of `Participant`."""

    runs_on: str
    accepted: str | None

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        """Make ready to run on these inputs, shaped as `setting` says.

        Raises:
            Exception: it cannot; the first line of the message says why.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Contender:
    """Someone who may take part; `prepare` raises if it cannot."""

    name: str
    prepare: Callable[[Progress], Ready]


def contenders(
    checkpoint: Path, graph: Path, folder: Path, device: str, shapes: Sequence[Shape]
) -> list[Contender]:
    """List everyone, in the order they are measured; the first is the reference of the others.

    Args:
        checkpoint: the network.
        graph: the same, exported.
        folder: for engines.
        device: of PyTorch: "cuda", or "cpu" to try the report out.
        shapes: (batch, height, width) that will be measured.
    """
    half = torch.float16

    def in_torch(name: str, kind: type[TorchReady], dtype: torch.dtype) -> Contender:
        return Contender(name, lambda _progress: kind(checkpoint, device, dtype))

    return [
        in_torch("PyTorch eager, fp32", TorchReady, torch.float32),
        in_torch("PyTorch eager, fp16 channels-last", TorchReady, half),
        in_torch("torch.compile max-autotune, fp16 channels-last", CompiledReady, half),
        *(_engine(graph, folder, shapes, *engine) for engine in _ENGINES),
    ]


class TorchReady:
    """The network in PyTorch, batch norm folded; fp16 lies channels-last."""

    accepted: str | None = None

    def __init__(self, checkpoint: Path, device: str, dtype: torch.dtype) -> None:
        loaded = load_checkpoint(checkpoint)
        graph = DeploymentGraph(for_inference(loaded.model), loaded.normalisation).eval()
        graph = graph.to(device, dtype)
        if dtype == torch.float16:
            graph = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graph: nn.Module = graph
        self._device = device
        where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
        self.runs_on = f"torch {torch.__version__} on {where}"
        # fp32 is fp32 here as well.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        if self._device == "cpu" and setting.cuda_graph:
            raise EngineError("CUDA graphs need a GPU")
        host = [self._pinned(torch.from_numpy(inputs[name])) for name in (IMAGE, HOLE_MASK)]
        there = [tensor.to(self._device) for tensor in host]
        compute = self._compute(setting)
        if setting.cuda_graph:
            compute = self._replayed(compute, there)
        results = torch.empty_like(host[0])

        @torch.inference_mode()
        def step() -> Any:
            if setting.transfers:
                for to, tensor in zip(there, host, strict=True):
                    to.copy_(tensor, non_blocking=True)
            filled = compute(*there)
            if setting.transfers:
                results.copy_(filled, non_blocking=True)
            if self._device == "cuda":
                torch.cuda.synchronize()
            return results.numpy() if setting.transfers else None

        return step

    def close(self) -> None:
        del self._graph

    def _compute(self, setting: Setting) -> Callable[..., Tensor]:  # noqa: ARG002
        graph = self._graph
        return lambda image, hole_mask: graph(image, hole_mask)[0]

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device == "cuda" else tensor.clone()

    def _replayed(
        self, compute: Callable[..., Tensor], there: list[Tensor]
    ) -> Callable[..., Tensor]:
        """Capture one run; later ones read and write the same memory."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                compute(*there)
        torch.cuda.current_stream().wait_stream(aside)
        captured = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(captured):
            filled = compute(*there)

        def replay(*_there: Tensor) -> Tensor:
            captured.replay()
            return filled

        return replay


class CompiledReady(TorchReady):
    """The same through torch.compile, which captures CUDA graphs by itself, once a shape."""

    def __init__(self, checkpoint: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, device, dtype)
        if device == "cpu":
            raise EngineError("max-autotune is measured on GPUs only")
        self._compiled: tuple[tuple[int, int, bool], Callable[..., Tensor]] | None = None

    def _compute(self, setting: Setting) -> Callable[..., Tensor]:
        shape = (setting.batch, setting.side, setting.cuda_graph)
        if self._compiled is None or self._compiled[0] != shape:
            # After a few shapes it would give up, and run the rest uncompiled.
            torch.compiler.reset()
            mode = "max-autotune" if setting.cuda_graph else "max-autotune-no-cudagraphs"
            compiled = torch.compile(self._graph, mode=mode, dynamic=False, fullgraph=True)
            self._compiled = (shape, lambda image, hole_mask: compiled(image, hole_mask)[0])
        return self._compiled[1]

    def _replayed(
        self,
        compute: Callable[..., Tensor],
        there: list[Tensor],  # noqa: ARG002
    ) -> Callable[..., Tensor]:
        return compute


def _engine(
    graph: Path, folder: Path, shapes: Sequence[Shape], name: str, precision: Precision
) -> Contender:
    def prepare(progress: Progress) -> Ready:
        backend = backend_named(name)
        if why := backend.why_not_run() or backend.why_not(precision):
            raise EngineError(why)
        engine = folder / f"{name}-{precision}.engine"
        tensorrt = None
        if name.startswith("tensorrt"):
            tensorrt = TensorRtOptions(profiles=profiles(shapes, read_graph(graph).contract))
        options = BuildOptions(backend=name, precision=precision, tensorrt=tensorrt)
        manifest = build_engine(graph, engine, options, overwrite=True, progress=progress)
        return EngineReady(backend, engine, manifest)

    return Contender(f"{name}, {precision}", prepare)


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
    """An accepted engine, opened once with CUDA graphs and once without."""

    def __init__(self, backend: Backend, engine: Path, manifest: Manifest) -> None:
        self.runs_on = backend.runtime().describe()
        self.accepted: str | None = describe_parity(manifest)
        self._backend, self._engine, self._precision = backend, engine, manifest.precision
        self._sessions: dict[bool, Any] = {}

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        if setting.cuda_graph not in self._sessions:
            self._sessions[setting.cuda_graph] = self._open(graphs=setting.cuda_graph)
        session = self._sessions[setting.cuda_graph]
        if hasattr(session, "run_on_device"):
            return _tensorrt_step(session, setting, inputs)
        if not setting.transfers:
            return session.resident(inputs)  # type: ignore[no-any-return]
        if setting.cuda_graph:
            raise EngineError("ONNX Runtime replays graphs only on arrays that stay on the GPU")
        return lambda: session.run(inputs)[FILLED]

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _open(self, *, graphs: bool) -> Any:
        backend = self._backend
        if isinstance(backend, OnnxRuntimeGpuBackend):
            chosen = backend.with_cuda_graphs() if graphs else backend
            return chosen.open(self._engine, self._precision, RunOptions())
        from pconv_deploy.engines.backends.tensorrt import PLAN, TensorRtBackend
        from pconv_deploy.engines.tensorrt.library import load
        from pconv_deploy.engines.tensorrt.session import TensorRtSession

        assert isinstance(backend, TensorRtBackend)
        plan = (self._engine / PLAN).read_bytes()
        return TensorRtSession(load(backend.flavour), plan, RunOptions(), graphs=graphs)


def _tensorrt_step(session: Any, setting: Setting, inputs: Arrays) -> Step:
    if setting.transfers:
        return lambda: session.run(inputs)[FILLED]
    there = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
    results = {FILLED: torch.empty_like(there[IMAGE])}
    torch.cuda.synchronize()
    return lambda: session.run_on_device(there, outputs=results) and None


def timed(step: Step, rounds: int, limit: float) -> list[float]:
    """Run a few times unseen, then measure in seconds; stop after `limit` of them.

    A step that compiles or tunes on its first runs does so unseen.
    """
    for _ in range(_WARM_UP):
        step()
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < rounds and time.perf_counter() - begun < limit:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def release_memory() -> None:
    """Give back what PyTorch keeps of the GPU's memory, before someone else needs it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_difference(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> int:
    """Levels that two composites differ by, at most."""
    return int(np.abs(found.astype(np.int16) - wanted.astype(np.int16)).max())
