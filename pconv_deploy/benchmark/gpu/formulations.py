"""PyTorch in a GPU report: eager, and through torch.compile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_deploy.benchmark.contenders import Formulation, torch_graph
from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.benchmark.gpu.steps import WARM_UP, Step
from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Arrays


class TorchReady:
    """The network in PyTorch; fp16 lies channels-last.

    Literal as the paper's authors wrote it; otherwise collapsed, batch norm folded.

    compiled  through torch.compile, which captures CUDA graphs by itself, once a shape
    """

    accepted: str | None = None

    def __init__(
        self,
        checkpoint: Path,
        device: str,
        dtype: torch.dtype,
        compiled: bool = False,
        *,
        formulation: Formulation = "collapsed",
    ) -> None:
        if compiled and device == "cpu":
            raise EngineError("max-autotune is measured on GPUs only")
        graph = torch_graph(checkpoint, formulation).to(device, dtype)
        if dtype == torch.float16:
            graph = graph.to(memory_format=torch.channels_last)
        self._graph: nn.Module = graph
        self._device, self._compiled = device, compiled
        self._shape: tuple[int, int, bool] | None = None  # that `_run` was compiled for
        self._run: Callable[..., Any] = graph
        where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
        self.runs_on = f"torch {torch.__version__} on {where}"
        # fp32 is fp32 here as well, and kernels are searched for, as everyone else does.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        if self._device == "cpu" and setting.cuda_graph:
            raise EngineError("CUDA graphs need a GPU")
        arrays = [inputs[name] for name in (IMAGE, HOLE_MASK)]
        through = [pinned_like(array, self._device) for array in arrays]
        there = [tensor.to(self._device) for tensor in through]
        compute = self._compute(setting, there)
        back = pinned_like(inputs[IMAGE], self._device)
        result: Tensor | NDArray[np.uint8] = back

        @torch.inference_mode()
        def run() -> None:
            nonlocal result
            if setting.transfers:
                for to, tensor, array in zip(there, through, arrays, strict=True):
                    np.copyto(tensor.numpy(), array)
                    to.copy_(tensor, non_blocking=True)
            result = compute(*there)
            if setting.transfers:
                back.copy_(result, non_blocking=True)
            if self._device == "cuda":
                torch.cuda.synchronize()
            if setting.transfers:
                result = back.numpy().copy()

        def filled() -> NDArray[np.uint8]:
            return result.cpu().numpy() if isinstance(result, Tensor) else result

        return Step(run, filled)

    def close(self) -> None:
        del self._graph

    def _compute(self, setting: Setting, there: list[Tensor]) -> Callable[..., Tensor]:
        graph = self._compiled_for(setting) if self._compiled else self._graph

        def compute(image: Tensor, hole_mask: Tensor) -> Tensor:
            filled: Tensor = graph(image, hole_mask)[0]
            return filled

        return _replayed(compute, there) if setting.cuda_graph and not self._compiled else compute

    def _compiled_for(self, setting: Setting) -> Callable[..., Any]:
        shape = (setting.batch, setting.side, setting.cuda_graph)
        if shape != self._shape:
            # After a few shapes it would give up, and run the rest uncompiled.
            torch.compiler.reset()
            mode = "max-autotune" if setting.cuda_graph else "max-autotune-no-cudagraphs"
            self._run = torch.compile(self._graph, mode=mode, dynamic=False, fullgraph=True)
            self._shape = shape
        return self._run


def _replayed(compute: Callable[..., Tensor], there: list[Tensor]) -> Callable[..., Tensor]:
    """Capture one run; later ones read and write the same memory."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            compute(*there)
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(captured):
        filled = compute(*there)

    def replay(*_there: Tensor) -> Tensor:
        captured.replay()
        return filled

    return replay


def pinned_like(array: NDArray[np.uint8], device: str) -> Tensor:
    """Copy an array of the host to memory that `device` copies from and to without detour."""
    # torch.empty_like would not be pinned: it takes over type, shape and device alone.
    pinned = torch.empty(array.shape, dtype=torch.uint8, pin_memory=device == "cuda")
    np.copyto(pinned.numpy(), array)
    return pinned


def release_memory() -> None:
    """Give back what PyTorch keeps of the GPU's memory, before someone else needs it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
