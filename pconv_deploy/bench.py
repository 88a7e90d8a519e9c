"""How fast an engine is, and compared with what: all contenders take turns in one run.

Every contender does the same job: uint8 image and hole mask in, composited uint8 image out.
The engine is also timed in the stages around it, as `infer` goes through them.
"""

import io
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import MissingRuntimeError, UsageError
from pconv_deploy.holes import irregular_hole
from pconv_deploy.images import like
from pconv_deploy.inpainter import Inpainter, Prepared, finish

REFERENCE = "PyTorch eager, literal"
STAGES = ("decode", "pre", "infer", "post", "encode")
_HOLE_AREA = (0.2, 0.3)
_MIN_PIXELS = 64
# Seconds before each turn: the threads of the one before still spin, waiting for more work.
_PAUSE = 0.2

Fill = Callable[[NDArray[Any], NDArray[Any]], Any]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured and how often.

    size     height and width of the images, pixels; None takes the engine's own, or 512
    rounds   each contender runs once in each round
    warm_up  rounds before those that count
    threads  of every contender; None leaves each its own default
    """

    batch: int = 1
    size: tuple[int, int] | None = None
    rounds: int = 15
    warm_up: int = 2
    threads: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Wall-clock milliseconds of one batch, over the rounds.

    images_per_second  batch over the median
    ratio              how many times faster than the reference: the median over the rounds of
                       reference / this, both of one round; with its 10th and 90th percentile
    """

    name: str
    p50: float
    p90: float
    p99: float
    images_per_second: float
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """All timings with what is needed to repeat them."""

    engine: str
    against: str | None
    batch: int
    height: int
    width: int
    rounds: int
    threads: int | None
    hole_share: float
    contenders: tuple[Timing, ...]
    stages: tuple[Timing, ...]
    environment: Mapping[str, str]


def bench(
    engine: Path,
    *,
    against: Path | None = None,
    photo: Image.Image,
    options: BenchOptions | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> BenchResult:
    """Time an engine, and the PyTorch formulations of a checkpoint beside it.

    Args:
        engine: engine folder.
        against: checkpoint; its literal network is the reference of every ratio.
        photo: scaled to the wanted size and filled, again and again.
        options: sizes and counts.
        progress: is told the rounds done and their number.

    Raises:
        EngineError, CheckpointError, UsageError: as `Inpainter.load`, `load_checkpoint`.
        MissingRuntimeError: `against` is given and torch is not installed.
    """
    options = options or BenchOptions()
    with Inpainter.load(engine, threads=options.threads) as inpainter:
        contract = inpainter.contract
        if contract.batch is not None and options.batch != contract.batch:
            raise UsageError(f"{engine} takes batches of {contract.batch}, not {options.batch}")
        height, width = options.size or contract.size or (512, 512)
        if height * width < _MIN_PIXELS:
            raise UsageError(f"found a size of {height}x{width}; needed at least 8x8")
        task = _Task.make(inpainter, photo, (height, width), options.batch)
        backend = inpainter.manifest.backend if inpainter.manifest else "engine"
        contenders: dict[str, Fill] = {}
        if against is not None:
            contenders |= _torch_contenders(against, contract, options.threads)
        contenders[f"{backend}, {contract.precision}"] = lambda *_arrays: inpainter.run(
            task.prepared
        )
        times, stages = _take_turns(contenders, task, inpainter, options, progress)
    reference = times.get(REFERENCE)
    return BenchResult(
        engine=str(engine),
        against=str(against) if against else None,
        batch=options.batch,
        height=height,
        width=width,
        rounds=options.rounds,
        threads=options.threads,
        hole_share=round(float(task.prepared[0].hole.mean()), 3),
        contenders=tuple(_timing(n, t, options.batch, reference) for n, t in times.items()),
        stages=tuple(_timing(n, t, options.batch) for n, t in stages.items()),
        environment=describe_machine(),
    )


def describe_machine() -> dict[str, str]:
    """Processor, cores, system and Python, for people who compare figures."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class _Task:
    """One batch in all the forms the stages pass it on."""

    encoded: bytes
    hole: NDArray[np.bool_]
    prepared: list[Prepared]
    image: NDArray[np.uint8]
    hole_mask: NDArray[np.uint8]

    @classmethod
    def make(
        cls, inpainter: Inpainter, photo: Image.Image, size: tuple[int, int], batch: int
    ) -> "_Task":
        height, width = size
        picture = photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=95)
        hole = irregular_hole(np.random.default_rng(0), height, width, _HOLE_AREA) != 0
        prepared = [inpainter.prepare(picture, hole)] * batch
        return cls(
            stream.getvalue(),
            hole,
            prepared,
            np.stack([item.image for item in prepared]),
            np.stack([item.hole_mask for item in prepared]),
        )


def _take_turns(
    contenders: Mapping[str, Fill],
    task: _Task,
    inpainter: Inpainter,
    options: BenchOptions,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    rounds = options.warm_up + options.rounds
    for number in range(rounds):
        counts = number >= options.warm_up
        for name, fill in contenders.items():
            time.sleep(_PAUSE)
            start = time.perf_counter()
            fill(task.image, task.hole_mask)
            if counts:
                times[name].append(time.perf_counter() - start)
        for name, seconds in _one_pass(inpainter, task).items():
            if counts:
                stages[name].append(seconds)
        progress(number + 1, rounds)
    return times, stages


def _one_pass(inpainter: Inpainter, task: _Task) -> dict[str, float]:
    """From JPEG files to PNG files, in memory; seconds by stage for the whole batch."""
    clock = [time.perf_counter()]
    pictures = []
    for _ in task.prepared:
        picture = Image.open(io.BytesIO(task.encoded))
        picture.load()
        pictures.append(picture)
    clock.append(time.perf_counter())
    prepared = [inpainter.prepare(picture, task.hole) for picture in pictures]
    clock.append(time.perf_counter())
    filled = inpainter.run(prepared)
    clock.append(time.perf_counter())
    results = [
        like(picture, finish(item, pixels))
        for picture, item, pixels in zip(pictures, prepared, filled, strict=True)
    ]
    clock.append(time.perf_counter())
    for result in results:
        result.save(io.BytesIO(), "PNG")
    clock.append(time.perf_counter())
    return {name: b - a for name, a, b in zip(STAGES, clock, clock[1:], strict=False)}


def _torch_contenders(
    checkpoint_file: Path, contract: GraphContract, threads: int | None
) -> dict[str, Fill]:
    try:
        import torch
    except ImportError as error:
        raise MissingRuntimeError(
            "--against needs torch: pip install 'pconv-deploy[export]'"
        ) from error
    from pconv_deploy.checkpoint import load_checkpoint
    from pconv_deploy.export.graphs import DeploymentGraph
    from pconv_deploy.networks import for_inference, literal_network

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(checkpoint_file)
    if checkpoint.source.sha256 != contract.source.sha256:
        raise UsageError(
            f"{checkpoint_file} is not the checkpoint this engine was made from "
            f"({contract.source.file}, sha256 {contract.source.sha256[:12]}...)"
        )
    networks = {
        REFERENCE: literal_network(checkpoint.model),
        "PyTorch eager, collapsed": for_inference(checkpoint.model),
    }

    def filling_with(graph: torch.nn.Module) -> Fill:
        @torch.inference_mode()
        def fill(image: NDArray[Any], hole_mask: NDArray[Any]) -> NDArray[Any]:
            filled, _raw = graph(torch.from_numpy(image), torch.from_numpy(hole_mask))
            result: NDArray[Any] = filled.numpy()
            return result

        return fill

    return {
        name: filling_with(DeploymentGraph(network, checkpoint.normalisation).eval())
        for name, network in networks.items()
    }


def _timing(
    name: str, seconds: Sequence[float], batch: int, reference: Sequence[float] | None = None
) -> Timing:
    p50, p90, p99 = (np.percentile(seconds, (50, 90, 99)) * 1e3).tolist()
    low = middle = high = None
    if reference is not None:
        low, middle, high = np.percentile(np.divide(reference, seconds), (10, 50, 90)).tolist()
    return Timing(
        name=name,
        p50=p50,
        p90=p90,
        p99=p99,
        images_per_second=batch / p50 * 1e3,
        ratio=middle,
        ratio_p10=low,
        ratio_p90=high,
    )
