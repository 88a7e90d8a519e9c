"""Who takes part in a GPU report: PyTorch, literal and collapsed, and every backend for GPUs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pconv_deploy.benchmark.gpu.engines import EngineToBuild
from pconv_deploy.benchmark.gpu.formulations import CompiledReady, TorchReady
from pconv_deploy.benchmark.gpu.steps import GpuContender
from pconv_deploy.engines.shapes import Shape
from pconv_deploy.errors import UsageError
from pconv_deploy.parity import Precision

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


def contenders(
    checkpoint: Path, graph: Path, folder: Path, device: str, shapes: Sequence[Shape]
) -> list[GpuContender]:
    """List everyone, in the order they are measured; the first is the reference of the others.

    Args:
        checkpoint: the network.
        graph: the same, exported.
        folder: for engines.
        device: of PyTorch: "cuda", or "cpu" to try the report out.
        shapes: (batch, height, width) that will be measured.
    """
    half = torch.float16

    def in_torch(
        name: str, kind: type[TorchReady], dtype: torch.dtype, *, literal: bool = False
    ) -> GpuContender:
        form = "literal" if literal else "collapsed"
        return GpuContender(
            f"{name}, {form}", lambda _progress: kind(checkpoint, device, dtype, literal=literal)
        )

    def engine(backend: str, precision: Precision) -> GpuContender:
        plan = EngineToBuild(graph, folder, shapes, backend, precision)
        return GpuContender(f"{backend}, {precision}", plan.prepare)

    return [
        in_torch("PyTorch eager, fp32", TorchReady, torch.float32, literal=True),
        in_torch("PyTorch eager, fp32", TorchReady, torch.float32),
        in_torch("PyTorch eager, fp16 channels-last", TorchReady, half, literal=True),
        in_torch("PyTorch eager, fp16 channels-last", TorchReady, half),
        in_torch(
            "torch.compile max-autotune, fp16 channels-last", CompiledReady, half, literal=True
        ),
        in_torch("torch.compile max-autotune, fp16 channels-last", CompiledReady, half),
        *(engine(*wanted) for wanted in _ENGINES),
    ]


def chosen(everyone: Sequence[GpuContender], only: Sequence[str]) -> list[GpuContender]:
    """Return those whose names contain one of the texts in `only`; all if there are none.

    Raises:
        UsageError: no contender is left.
    """
    left = [one for one in everyone if not only or any(part in one.name for part in only)]
    if not left:
        names = "; ".join(one.name for one in everyone)
        raise UsageError(f"no contender matches --only; available: {names}")
    return left
