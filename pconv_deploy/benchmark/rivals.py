"""What a user could pick instead: PyTorch at its best with the literal network, and its export."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from pconv_deploy.benchmark.contenders import Fill, torch_fill, torch_graph
from pconv_deploy.benchmark.suite_engines import runnable
from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.engines.base import ignore_progress
from pconv_deploy.engines.processor import instruction_sets
from pconv_deploy.engines.sessions import RunOptions, Session, files_just_built
from pconv_deploy.export.trace import quiet_torch
from pconv_deploy.files import scratch_folder

_PYTORCH = "PyTorch {} channels last, literal"


def rivals(
    checkpoint: Path,
    size: tuple[int, int],
    contract: GraphContract,
    stack: ExitStack,
    progress: Callable[[str], None],
) -> dict[str, Fill]:
    """Make all of them, for one image of a fixed size, by their names.

    Args:
        checkpoint: of the network.
        size: height and width.
        contract: of a graph of that network; backends ask for one.
        stack: closes them.
        progress: is told each step, and what cannot be had here.
    """
    with quiet_torch():
        found = _pytorch(checkpoint, size, progress)
        progress("exporting the literal network with torch.onnx")
        plain = _plain_export(checkpoint, size)
    for backend, precision in runnable(ignore_progress):
        if precision == "fp32":
            folder = stack.enter_context(scratch_folder())
            backend.build(plain, contract, precision, folder)
            session = backend.open(files_just_built(folder), precision, RunOptions())
            stack.enter_context(closing(session))
            found[f"{backend.name}, plain torch.onnx export, fp32"] = _filled_by(session)
    return found


def _pytorch(
    checkpoint: Path, size: tuple[int, int], progress: Callable[[str], None]
) -> dict[str, Fill]:
    import torch

    # PyTorch takes bf16 on any processor with AVX512, but emulates it without these instructions.
    bf16 = bool({"avx512_bf16", "amx_bf16"}.intersection(instruction_sets() or ()))
    graph = torch_graph(checkpoint, "literal").to(memory_format=torch.channels_last)

    def filled_by(module: Any) -> Fill:
        fill = torch_fill(module)

        def cast(image: Any, hole_mask: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return fill(image, hole_mask)

        return cast

    kind = "bf16 autocast," if bf16 else "fp32,"
    found = {_PYTORCH.format(f"eager, {kind}"): filled_by(graph)}
    progress("compiling the literal network with torch.compile")
    compiled = filled_by(torch.compile(graph))
    try:
        compiled(np.zeros((1, *size, 3), np.uint8), np.zeros((1, *size), np.uint8))
    except Exception as error:  # noqa: BLE001  whatever is missing here: a compiler, most often
        progress(f"no torch.compile: {str(error).strip().partition(chr(10))[0]}")
    else:
        found[_PYTORCH.format(f"compiled, {kind}")] = compiled
    return found


def _plain_export(checkpoint: Path, size: tuple[int, int]) -> bytes:
    """Return the literal network as torch.onnx exports it."""
    import torch

    with scratch_folder() as folder:
        path = folder / "plain.onnx"
        torch.onnx.export(
            torch_graph(checkpoint, "literal"),
            (torch.zeros(1, *size, 3, dtype=torch.uint8), torch.ones(1, *size, dtype=torch.uint8)),
            path,
            input_names=[IMAGE, HOLE_MASK],
            output_names=[FILLED, "output"],
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


def _filled_by(session: Session) -> Fill:
    def fill(image: Any, hole_mask: Any) -> Any:
        return session.run({IMAGE: image, HOLE_MASK: hole_mask})[FILLED]

    return fill
