"""PyTorch in a GPU report: eager, and through torch.compile."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_deploy.benchmark.gpu.results import Setting
from pconv_deploy.benchmark.gpu.steps import WARM_UP, Step
from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.errors import EngineError
from pconv_deploy.export.ends import DeploymentGraph
from pconv_deploy.network.architectures import for_inference, literal_network
from pconv_deploy.parity import Arrays


class TorchReady:
    """The network in PyTorch; fp16 lies channels-last.

    Literal as the paper's authors wrote it; otherwise collapsed, batch norm folded.
    """

    accepted: str | None = None

    def __init__(
        self, checkpoint: Path, device: str, dtype: torch.dtype, *, literal: bool = False
    ) -> None:
        loaded = load_checkpoint(checkpoint)
        form = literal_network if literal else for_inference
        graph = DeploymentGraph(form(loaded.model), loaded.normalisation).eval()
        graph = graph.to(device, dtype)
        if dtype == torch.float16:
            graph = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graph: nn.Module = graph
        self._device = device
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
        compute = self._compute(setting)
        if setting.cuda_graph:
            compute = self._replayed(compute, there)
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

    def _compute(self, setting: Setting) -> Callable[..., Tensor]:  # noqa: ARG002
        graph = self._graph
        return lambda image, hole_mask: graph(image, hole_mask)[0]

    def _replayed(
        self, compute: Callable[..., Tensor], there: list[Tensor]
    ) -> Callable[..., Tensor]:
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


class CompiledReady(TorchReady):
    """The same through torch.compile, which captures CUDA graphs by itself, once a shape."""

    def __init__(
        self, checkpoint: Path, device: str, dtype: torch.dtype, *, literal: bool = False
    ) -> None:
        super().__init__(checkpoint, device, dtype, literal=literal)
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
