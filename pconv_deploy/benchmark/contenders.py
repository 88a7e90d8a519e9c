"""Who takes part in a benchmark, and on what: engines, and PyTorch's formulations of a checkpoint.

`python -m pconv_deploy.benchmark.contenders` with a request as JSON runs one of them alone and
prints how much memory its process took.
"""

import functools
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy import timing
from pconv_deploy.benchmark.photo import photo_with_hole
from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, MissingRuntimeError, UsageError
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.parity import Precision
from pconv_deploy.processes import PACKAGE_HOME, run_child
from pconv_deploy.timing import Contender

# image (N, H, W, 3) uint8, hole_mask (N, H, W) uint8 -> the composites
Fill = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any]
Formulation = Literal["literal", "collapsed"]
FORMULATIONS: tuple[Formulation, ...] = ("literal", "collapsed")
REFERENCE = "PyTorch eager, literal"
_MEMORY_RUNS = 2


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to run alone, on what.

    path         an engine; a checkpoint, if there is a formulation
    weights_key  which weights of the checkpoint
    batch, height, width  of the images, padded to what `path` takes
    """

    path: str
    weights_key: str | None = None
    formulation: Formulation | None
    threads: int | None
    batch: int
    height: int
    width: int


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which contender an engine is, and what it runs on.

    runtime  the installed package, and the GPU if it runs on one
    """

    contender: str
    path: str
    backend: str
    runtime: str
    precision: Precision


@dataclass(frozen=True)
class FillTask:
    """One batch in all the forms the stages pass it on."""

    encoded: bytes
    hole: NDArray[np.bool_]
    prepared: list[Prepared]
    image: NDArray[np.uint8]
    hole_mask: NDArray[np.uint8]

    @classmethod
    def make(
        cls,
        inpainter: Inpainter,
        photo: Image.Image,
        size: tuple[int, int],
        batch: int,
        hole_side: int | None = None,
    ) -> "FillTask":
        height, width = size
        picture, hole_mask = photo_with_hole(photo, height, width, hole_side)
        hole = hole_mask != 0
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=95)
        prepared = [inpainter.prepare(picture, hole)] * batch
        return cls(
            stream.getvalue(),
            hole,
            prepared,
            np.stack([item.image for item in prepared]),
            np.stack([item.hole_mask for item in prepared]),
        )

    def alone(self, path: str, formulation: Formulation | None, threads: int | None) -> Alone:
        batch, height, width = self.hole_mask.shape
        return Alone(
            path=path,
            formulation=formulation,
            threads=threads,
            batch=batch,
            height=height,
            width=width,
        )


@dataclass(frozen=True)
class FillContender:
    """A fill on its own arrays (engines pad differently), and how it runs alone, if it can."""

    fill: Fill
    task: FillTask
    alone: Alone | None

    def turn(self) -> Contender:
        return Contender(functools.partial(self.fill, self.task.image, self.task.hole_mask))


def engine_fill(inpainter: Inpainter) -> Fill:
    """Give the function that an engine is measured by."""

    def fill(image: NDArray[np.uint8], hole_mask: NDArray[np.uint8]) -> Any:
        pairs = zip(image, hole_mask, strict=True)
        return inpainter.run([Prepared(i, m != 0, i, m) for i, m in pairs])

    return fill


def torch_fill(graph: Any, threads: int | None = None) -> Fill:
    """Give the same function by what `torch_graph` returned."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def fill(image: NDArray[np.uint8], hole_mask: NDArray[np.uint8]) -> Any:
        filled, _raw = graph(torch.from_numpy(image), torch.from_numpy(hole_mask))
        return filled.numpy()

    return fill


def torch_graph(
    checkpoint_file: Path,
    formulation: Formulation,
    contract: GraphContract | None = None,
    weights_key: str | None = None,
) -> Any:
    """Load a checkpoint's network in PyTorch as a module from images to composites.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        MissingRuntimeError: torch is not installed.
        UsageError: it is not the checkpoint that `contract` names.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingRuntimeError(
            "--against needs torch: pip install 'pconv-deploy[export]'"
        ) from error
    from pconv_deploy.checkpoints.native import load_checkpoint
    from pconv_deploy.export.ends import DeploymentGraph
    from pconv_deploy.network.architectures import for_inference, literal_network

    if contract and (module := contract.source.module):
        raise UsageError(
            f"this engine was made from a module, {module.factory}, which only its own code runs; "
            "measure it without --against"
        )
    checkpoint = load_checkpoint(checkpoint_file, weights_key=weights_key)
    if contract and checkpoint.source.sha256 != contract.source.sha256:
        raise UsageError(
            f"{checkpoint_file} is not the checkpoint this engine was made from "
            f"({contract.source.file}, sha256 {contract.source.sha256[:12]}...)"
        )
    form = literal_network if formulation == "literal" else for_inference
    return DeploymentGraph(form(checkpoint.model), checkpoint.normalisation).eval()


def torch_contenders(
    against: Path, opened: Iterable[Inpainter], task: FillTask, threads: int | None
) -> dict[str, FillContender]:
    """Make the formulations of the checkpoint that all opened engines were made from, by name.

    Raises:
        CheckpointError, MissingRuntimeError: as `torch_graph`.
        UsageError: the engines were made from another checkpoint, or from several.
    """
    contracts = [inpainter.contract for inpainter in opened]
    if len({contract.source.sha256 for contract in contracts}) > 1:
        raise UsageError(
            "these engines were made from different checkpoints; measure them without --against"
        )
    key = contracts[0].source.weights_key
    return {
        f"PyTorch eager, {formulation}": FillContender(
            torch_fill(torch_graph(against, formulation, contracts[0], key), threads),
            task,
            replace(task.alone(str(against), formulation, threads), weights_key=key),
        )
        for formulation in FORMULATIONS
    }


def engine_facts(opened: Mapping[Path, Inpainter]) -> tuple[EngineFacts, ...]:
    """Name the engines after what they run on; alike ones by their paths as well."""
    facts = []
    for path, inpainter in opened.items():
        manifest = inpainter.manifest
        assert manifest is not None  # it came from a folder
        runtime = backend_named(manifest.backend).runtime()
        kind = f"{manifest.backend}, {manifest.precision}"
        facts.append(
            EngineFacts(
                contender=kind,
                path=str(path),
                backend=manifest.backend,
                runtime=runtime.describe(),
                precision=manifest.precision,
            )
        )
    kinds = Counter(fact.contender for fact in facts)
    return tuple(
        fact
        if kinds[fact.contender] == 1
        else replace(fact, contender=f"{fact.contender}, {fact.path}")
        for fact in facts
    )


def peak_mib(who: Alone) -> float | None:
    """Run a contender in a process of its own; give that process's peak memory, MiB.

    Interpreter and libraries are part of it. None where the system does not say.

    Raises:
        EngineError: it failed there.
    """
    request = msgspec.json.encode(who).decode()
    done = run_child(
        (sys.executable, "-P", "-m", "pconv_deploy.benchmark.contenders", request),
        env={**os.environ, "PYTHONPATH": PACKAGE_HOME},
    )
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        raise EngineError(f"{who.path}, run alone for its memory, failed: {complaint[-1]}")
    return msgspec.json.decode(done.stdout, type=float | None)


def _peak_of_this_process(who: Alone) -> float | None:
    image = np.zeros((who.batch, who.height, who.width, 3), np.uint8)
    hole_mask = np.zeros(image.shape[:3], np.uint8)
    hole_mask[:, : who.height // 2] = 255
    if who.formulation:
        graph = torch_graph(Path(who.path), who.formulation, weights_key=who.weights_key)
        fill = torch_fill(graph, who.threads)
    else:
        fill = engine_fill(Inpainter.load(who.path, threads=who.threads))
    for _ in range(_MEMORY_RUNS):
        fill(image, hole_mask)
    return timing.peak_mib()


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.argv[1], type=Alone)
    sys.stdout.buffer.write(msgspec.json.encode(_peak_of_this_process(asked)))
