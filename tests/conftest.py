import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests run beside each other: threads of one that spin would only slow the others down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import GraphContract, Normalisation, UNetConfig
from pconv_deploy.engines import memory
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.windows import entry
from pconv_deploy.export import checkpoint_to_onnx
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.export.target import ExportTarget
from pconv_deploy.export.trace import trace_target
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.network.architectures import Network, build_network
from tests.browser import browser as browser
from tests.traces import Traces

TINY = UNetConfig(channels=(8, 12, 16, 16), kernels=(7, 5, 3, 3))
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def random_network(config: UNetConfig, seed: int = 0) -> Network:
    """A network in which no batch norm is the identity and no bias is zero."""
    torch.manual_seed(seed)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    for name, parameter in network.named_parameters():
        if name.endswith(("conv.bias", "head.offset")):
            nn.init.normal_(parameter)
    return network.eval()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the processor: some tests depend on its instructions, or stand in for others."""
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {line[0].strip(): line[-1].split() for line in lines}
    kinds = {"bf16": {"avx512_bf16", "amx_bf16"}, "VNNI": {"avx512_vnni", "avx_vnni"}}
    has = {name: not flags.isdisjoint(facts.get("flags", ())) for name, flags in kinds.items()}
    said = ", ".join(f"{name} {'yes' if found else 'no'}" for name, found in has.items())
    terminalreporter.write_line(f"processor: {' '.join(facts.get('model name', ['?']))}; {said}")


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    folder = tmp_path_factory.getbasetemp()
    return Traces((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "traces")


@pytest.fixture(scope="session", autouse=True)
def _trace_each_checkpoint_once(traces: Traces) -> Iterator[None]:
    """Let exports of one checkpoint in graphs of one shape share its trace."""

    def shared(target: ExportTarget, contract: GraphContract) -> ir.Model:
        if target.source.module:
            return trace_target(target, contract)
        size = "x".join(map(str, contract.size or ()))
        name = f"{target.source.sha256}-{contract.kind}-{contract.batch}-{size}"
        return traces.get(name, lambda: trace_target(target, contract))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_to_onnx, "trace_target", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def _measure_engines_briefly() -> Iterator[None]:
    """No test depends on what runs were found to take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "_MEASURED_AT", 64)
        patch.setattr(entry, "_ROUNDS", 1)
        patch.setattr(memory, "_SIDES", (64, 320))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, random_network(TINY), normalisation=NORMALISATION, training={"steps": 0})
    return path


@pytest.fixture(scope="session")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export_checkpoint(checkpoint, path)
    return path


@pytest.fixture(scope="session")
def engine(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests: copy it before changing it."""
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(graph, path)
    return path


@pytest.fixture(scope="module")
def inpainter(engine: Path) -> Iterator[Inpainter]:
    with Inpainter.load(engine, threads=1) as loaded:
        yield loaded


@pytest.fixture
def photo() -> Callable[..., NDArray[np.uint8]]:
    def make(height: int = 40, width: int = 56, channels: int = 3) -> NDArray[np.uint8]:
        rng = np.random.default_rng(height * width + channels)
        return rng.integers(0, 256, (height, width, channels), np.uint8)

    return make


@pytest.fixture
def box() -> Callable[..., NDArray[np.uint8]]:
    """A hole mask with one rectangular hole."""

    def make(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
        hole = np.zeros((height, width), np.uint8)
        hole[height // 4 : height // 2, width // 4 : width // 2] = 255
        return hole

    return make


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make packages look as if they were not installed; the exporter then asks for them anew."""

    def hide(*packages: str) -> None:
        for name in [n for n in sys.modules if n.startswith("pconv_deploy.export")]:
            monkeypatch.delitem(sys.modules, name)
        for name in packages:
            monkeypatch.setitem(sys.modules, name, None)

    return hide
