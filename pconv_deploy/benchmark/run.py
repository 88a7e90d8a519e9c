"""How fast engines are, and compared with what: all contenders take turns in one run.

Every contender does the same job: uint8 image and hole mask in, composited uint8 image out.
The first engine is also timed in the stages around it, as `infer` goes through them.
"""

import contextlib
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from pconv_deploy.benchmark.contenders import (
    REFERENCE,
    EngineFacts,
    Fill,
    FillContender,
    FillTask,
    engine_facts,
    engine_fill,
    peak_mib,
    torch_contenders,
)
from pconv_deploy.benchmark.photo import MIN_PIXELS
from pconv_deploy.benchmark.report import describe_machine
from pconv_deploy.errors import UsageError
from pconv_deploy.images.arrays import like
from pconv_deploy.images.writing import encode_image
from pconv_deploy.inpainter import Inpainter, finish
from pconv_deploy.regions import WHOLE
from pconv_deploy.timing import Contender, Ratio, milliseconds, take_turns

STAGES = ("decode", "pre", "infer", "post", "encode")
# 90th percentile of a ratio over its 10th. 58 of the 60 ratios in docs/bench-avx2.json are below.
_STEADY = 1.5


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured and how often.

    size     height and width of the images, pixels; None takes the engine's own, or 512
    hole     pixels of the side of a square hole; None: strokes that cover a quarter
    rounds   each contender runs once in each round
    warm_up  rounds before those that count
    threads  of every contender; None leaves each its own default
    memory   run each once more alone, in a process of its own, for its peak memory
    """

    batch: int = 1
    size: tuple[int, int] | None = None
    hole: int | None = None
    rounds: int = 15
    warm_up: int = 2
    threads: int | None = None
    memory: bool = False


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Wall-clock milliseconds of one batch, over the rounds.

    images_per_second  batch over the median
    ratio              how many times faster than the reference: the median over the rounds of
                       reference / this, both of one round; with its 10th and 90th percentile
    peak_mib           of a process that does nothing else, libraries included
    """

    name: str
    p50: float
    p90: float
    p99: float
    images_per_second: float
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    peak_mib: float | None = None

    def times_faster(self) -> str:
        """Return the ratio with its 10th and 90th percentile, or "" if there is no reference."""
        if self.ratio is None or self.ratio_p10 is None or self.ratio_p90 is None:
            return ""
        return str(Ratio(self.ratio, self.ratio_p10, self.ratio_p90))


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """All timings with what is needed to repeat them; `stages` are the first engine's.

    warning  why the figures mean little: they vary too much within the run; else None
    """

    engines: tuple[EngineFacts, ...]
    against: str | None
    batch: int
    height: int
    width: int
    rounds: int
    threads: int | None
    hole_share: float
    hole_side: int | None = None
    contenders: tuple[Timing, ...]
    stages: tuple[Timing, ...]
    environment: Mapping[str, str]
    warning: str | None = None


def bench(
    engines: Sequence[Path],
    *,
    against: Path | None = None,
    others: Mapping[str, Fill] | None = None,
    photo: Image.Image,
    options: BenchOptions | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> BenchResult:
    """Time engines, and the PyTorch formulations of a checkpoint beside them.

    Args:
        engines: engine folders.
        against: checkpoint of them all; its literal network is the reference of every ratio.
        others: timed beside them under these names, on the first engine's arrays. Their memory
            is not measured.
        photo: scaled to the wanted size and filled, again and again.
        options: sizes and counts.
        progress: is told the rounds done and their number.

    Raises:
        EngineError, CheckpointError, UsageError: as `Inpainter.load`, `load_checkpoint`.
        MissingRuntimeError: `against` is given and torch is not installed.
    """
    options = options or BenchOptions()
    if not engines or len({path.resolve() for path in engines}) < len(engines):
        raise UsageError("pass at least one engine, each only once")
    with contextlib.ExitStack() as stack:
        opened = {
            path: stack.enter_context(Inpainter.load(path, threads=options.threads, regions=WHOLE))
            for path in engines
        }
        facts = engine_facts(opened)
        size = _size(opened, options)
        tasks = [
            FillTask.make(inpainter, photo, size, options.batch, options.hole)
            for inpainter in opened.values()
        ]
        contenders: dict[str, FillContender] = {}
        if against is not None:
            contenders = torch_contenders(against, opened.values(), tasks[0], options.threads)
        for fact, inpainter, task in zip(facts, opened.values(), tasks, strict=True):
            alone = task.alone(fact.path, None, options.threads)
            contenders[fact.contender] = FillContender(engine_fill(inpainter), task, alone)
        for name, fill in (others or {}).items():
            contenders[name] = FillContender(fill, tasks[0], None)
        stages = _stages(next(iter(opened.values())), tasks[0])
        times = take_turns(
            {name: contender.turn() for name, contender in contenders.items()} | stages,
            options.rounds,
            warm_up=options.warm_up,
            progress=progress,
        )
    peaks = {}
    if options.memory:
        peaks = {n: peak_mib(c.alone) for n, c in contenders.items() if c.alone}
    reference = times.get(REFERENCE)
    timings = tuple(
        _timing(name, times[name], options.batch, reference, peaks.get(name)) for name in contenders
    )
    return BenchResult(
        engines=facts,
        against=str(against) if against else None,
        batch=options.batch,
        height=size[0],
        width=size[1],
        rounds=options.rounds,
        threads=options.threads,
        hole_share=round(float(tasks[0].prepared[0].hole.mean()), 3),
        hole_side=options.hole,
        contenders=timings,
        stages=tuple(_timing(name, times[name], options.batch) for name in STAGES),
        environment=describe_machine(),
        warning=unsteady(timings),
    )


def unsteady(timings: Sequence[Timing]) -> str | None:
    """Say so where the times vary so much that other work must have disturbed the run."""
    spread = max(
        t.ratio_p90 / t.ratio_p10 if t.ratio_p90 and t.ratio_p10 else t.p90 / t.p50 for t in timings
    )
    if spread < _STEADY:
        return None
    return (
        f"the figures vary by a factor of {spread:.1f} within the run, so they mean little. "
        "Repeat it while the machine has no other work; its load average is "
        f"{os.getloadavg()[0]:.1f} now"
    )


def _size(opened: Mapping[Path, Inpainter], options: BenchOptions) -> tuple[int, int]:
    """The size of the picture: the wanted one, that of a fixed-size engine, or 512x512."""
    for path, inpainter in opened.items():
        fixed = inpainter.contract.batch
        if fixed is not None and options.batch != fixed:
            raise UsageError(f"{path} takes batches of {fixed}, not {options.batch}")
    own = [i.contract.size for i in opened.values() if i.contract.size]
    height, width = options.size or (min(own) if own else (512, 512))
    if height * width < MIN_PIXELS:
        raise UsageError(f"found a size of {height}x{width}; needed at least 8x8")
    if options.hole is not None and not 1 <= options.hole < min(height, width):
        raise UsageError(
            f"found a hole of {options.hole}x{options.hole} in {height}x{width}; needed a smaller "
            "one, from 1x1"
        )
    return height, width


def _stages(inpainter: Inpainter, task: FillTask) -> dict[str, Contender]:
    """From JPEG files to PNG files, in memory: each stage takes on the whole batch of the last."""

    def decode(_nothing: None) -> list[Image.Image]:
        pictures = [Image.open(io.BytesIO(task.encoded)) for _ in task.prepared]
        for picture in pictures:
            picture.load()
        return list(pictures)

    def prepare(pictures: list[Image.Image]) -> Any:
        return pictures, [inpainter.prepare(picture, task.hole) for picture in pictures]

    def infer(batch: Any) -> Any:
        return *batch, inpainter.run(batch[1])

    def compose(batch: Any) -> list[Image.Image]:
        each = zip(*batch, strict=True)
        return [like(picture, finish(item, pixels)) for picture, item, pixels in each]

    def encode(results: list[Image.Image]) -> None:
        for result in results:
            encode_image(Path("filled.png"), result, io.BytesIO())

    batch: Any = None

    def run(stage: Callable[[Any], Any]) -> None:
        nonlocal batch
        batch = stage(batch)

    stages: tuple[Callable[[Any], Any], ...] = (decode, prepare, infer, compose, encode)
    return {
        name: Contender(functools.partial(run, stage), pause=0)
        for name, stage in zip(STAGES, stages, strict=True)
    }


def _timing(
    name: str,
    seconds: Sequence[float],
    batch: int,
    reference: Sequence[float] | None = None,
    peak: float | None = None,
) -> Timing:
    p50, p90, p99 = milliseconds(seconds, 50, 90, 99)
    ratio = Ratio.of(reference, seconds) if reference else None
    return Timing(
        name=name,
        p50=p50,
        p90=p90,
        p99=p99,
        images_per_second=batch / p50 * 1e3,
        ratio=ratio.median if ratio else None,
        ratio_p10=ratio.p10 if ratio else None,
        ratio_p90=ratio.p90 if ratio else None,
        peak_mib=peak,
    )
