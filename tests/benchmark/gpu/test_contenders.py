"""Those who are measured in a GPU report, without a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pconv_deploy.benchmark.gpu.engines import EngineReady, profiles
from pconv_deploy.benchmark.gpu.formulations import TorchReady, pinned_like
from pconv_deploy.benchmark.gpu.measuring import GpuReportOptions
from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.benchmark.gpu.steps import Step
from pconv_deploy.contract import FILLED, IMAGE
from pconv_deploy.engines.backends.onnxruntime.gpu import ONNXRUNTIME_CUDA
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.base import Runtime
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.parity import Arrays, parity_batches


def test_tensorrt_is_given_a_profile_for_each_shape_and_for_acceptance(graph: Path) -> None:
    contract = read_graph(graph).contract
    *exact, last = profiles([(1, 256, 256), (32, 512, 512)], contract)
    assert [p.min for p in exact] == [p.opt for p in exact] == [p.max for p in exact]
    assert [p.opt for p in exact] == [(1, 256, 256), (32, 512, 512)]
    for cases in parity_batches(contract):
        assert last.takes((len(cases), *cases[0].hole_mask.shape))


class OneGraph:
    """A session of ONNX Runtime with CUDA graphs: what it ran first, it replays for ever."""

    def __init__(self, done: list[str], *, graphs: bool) -> None:
        self.done, self.graphs = done, graphs
        self.captured: Arrays | None = None
        self.closed = False

    def resident(self, inputs: Arrays, outputs: Arrays) -> Any:
        assert outputs[FILLED].shape == inputs[IMAGE].shape

        def run() -> None:
            assert not self.closed
            if self.captured is None or not self.graphs:
                self.captured = inputs
            np.copyto(outputs[FILLED], self.captured[IMAGE])
            self.done.append("resident")

        return SimpleNamespace(run=run, read=lambda: outputs)

    def run(self, inputs: Arrays) -> Arrays:
        return {FILLED: inputs[IMAGE] + 1}

    def close(self) -> None:
        self.closed = True
        self.done.append("closed")


def engine_ready(backend: Any, monkeypatch: pytest.MonkeyPatch) -> EngineReady:
    monkeypatch.setattr(
        type(backend), "runtime", lambda _self: Runtime(package="a runtime", version="1")
    )
    manifest: Any = SimpleNamespace(engine_parity=None, not_compared="why", precision="fp16")
    ready = EngineReady(backend, Path("x"), manifest)
    assert "NOT compared" in (ready.accepted or "")
    return ready


def test_onnxruntime_has_a_session_for_each_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    done: list[str] = []

    def open_engine(_self: EngineReady, *, graphs: bool) -> Any:
        opened.append(graphs)
        return OneGraph(done, graphs=graphs)

    monkeypatch.setattr(EngineReady, "_open", open_engine)
    ready = engine_ready(ONNXRUNTIME_CUDA, monkeypatch)
    on_gpu = Setting(batch=1, side=8, transfers=False, cuda_graph=True)
    for level in (3, 5, 5):
        inputs = {IMAGE: np.full((1, 8, 8, 3), level, np.uint8)}
        for graph in (True, False):
            step = ready.step(msgspec.structs.replace(on_gpu, cuda_graph=graph), inputs)
            step.run()
            step.run()
            assert step.filled().max() == level
    assert opened == [True, False, True, True]  # one with a graph is never used twice
    assert done.count("closed") == 3  # each before the next one takes memory
    back = msgspec.structs.replace(on_gpu, transfers=True)
    with pytest.raises(EngineError, match="replays graphs only on arrays that stay on the GPU"):
        ready.step(back, inputs)
    step = ready.step(msgspec.structs.replace(back, cuda_graph=False), inputs)
    step.run()
    assert step.filled().max() == 6
    ready.close()
    ready.close()
    assert done.count("closed") == 4


class CapturesLate:
    """A session of TensorRT whose runs are graphs from number `first` on, until `lost`."""

    def __init__(self, first: int, lost: int = 1 << 30) -> None:
        self.first, self.lost = first, lost
        self.runs = self.runs_by_graph = 0

    def run(self, inputs: Arrays) -> Arrays:
        self.runs += 1
        self.runs_by_graph += self.first <= self.runs < self.lost
        return {FILLED: inputs[IMAGE] + 1}

    def run_on_device(self, inputs: Any, outputs: Any) -> None:
        outputs[FILLED].copy_(torch.from_numpy(self.run({IMAGE: inputs[IMAGE].numpy()})[FILLED]))

    def close(self) -> None:
        pass


def test_what_is_called_a_cuda_graph_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session goes on without where it cannot capture."""
    backend = TensorRtBackend()
    inputs = {IMAGE: np.zeros((1, 8, 8, 3), np.uint8)}
    with_graph = Setting(batch=1, side=8, transfers=True, cuda_graph=True)

    def step_of(session: CapturesLate, setting: Setting = with_graph) -> Step:
        monkeypatch.setattr(EngineReady, "_open", lambda _self, *, graphs: session)  # noqa: ARG005
        return engine_ready(backend, monkeypatch).step(setting, inputs)

    late = CapturesLate(first=5)
    step = step_of(late)
    assert late.runs_by_graph == 1  # whatever was before, nobody times
    step.run()
    assert step.filled().max() == 1
    with pytest.raises(EngineError, match="it runs without a CUDA graph; the log says why"):
        step_of(CapturesLate(first=1000))
    step = step_of(CapturesLate(first=1, lost=4))
    step.run()
    step.run()
    with pytest.raises(EngineError, match="it runs without a CUDA graph"):
        step.run()
    # The GPU's memory stood in for by the host's.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    step = step_of(CapturesLate(first=2), msgspec.structs.replace(with_graph, transfers=False))
    step.run()
    assert step.filled().max() == 1
    direct = step_of(
        CapturesLate(first=1000), msgspec.structs.replace(with_graph, cuda_graph=False)
    )
    direct.run()
    assert direct.filled().max() == 1


def test_torch_compile_forgets_the_shapes_before(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def compiled(graph: Any, mode: str, **options: Any) -> Any:
        assert options == {"dynamic": False, "fullgraph": True}
        done.append(mode)
        return graph

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    ready: Any = object.__new__(TorchReady)
    ready._graph, ready._compiled, ready._shape = lambda image, _hole: (image, None), True, None
    for setting in GpuReportOptions(batches=(1,), sides=(256,)).settings():
        assert ready._compute(setting, [])(7, 8) == 7
    assert done == ["reset", "max-autotune", "reset", "max-autotune-no-cudagraphs"]
    with pytest.raises(EngineError, match="on GPUs only"):
        TorchReady(checkpoint, "cpu", torch.float16, compiled=True)


def test_what_comes_back_to_pytorch_comes_to_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does to TensorRT; torch.empty_like of a pinned tensor would give another kind."""
    pinned: list[bool] = []

    def empty(*shape: Any, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        pinned.append(pin_memory)
        return torch.zeros(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty)
    array = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    for device in ("cuda", "cpu"):
        np.testing.assert_array_equal(pinned_like(array, device).numpy(), array)
    assert pinned == [True, False]
