"""Who takes part in a GPU report: PyTorch, literal and collapsed, and every backend for GPUs."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from pconv_deploy.benchmark.contenders import FORMULATIONS
from pconv_deploy.benchmark.gpu.engines import engine_ready
from pconv_deploy.benchmark.gpu.formulations import TorchReady
from pconv_deploy.benchmark.gpu.steps import GpuContender
from pconv_deploy.engines.shapes import Shape
from pconv_deploy.errors import UsageError
from pconv_deploy.parity import Precision

# What it is called, the type it computes in, and whether it is compiled.
_TORCH = (
    ("PyTorch eager, fp32", torch.float32, False),
    ("PyTorch eager, fp16 channels-last", torch.float16, False),
    ("torch.compile max-autotune, fp16 channels-last", torch.float16, True),
)
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
    formulations = [
        GpuContender(
            f"{name}, {form}",
            lambda _progress, form=form, more=(dtype, compiled): TorchReady(  # type: ignore[misc]
                checkpoint, device, *more, formulation=form
            ),
        )
        for name, dtype, compiled in _TORCH
        for form in FORMULATIONS
    ]
    engines = [
        GpuContender(
            f"{backend}, {precision}",
            functools.partial(engine_ready, graph, folder, shapes, (backend, precision)),
        )
        for backend, precision in _ENGINES
    ]
    return [*formulations, *engines]


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
