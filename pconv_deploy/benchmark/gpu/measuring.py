"""Everyone timed at every setting of a GPU report, and written down at once."""

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.benchmark.gpu.contenders import GpuContender
from pconv_deploy.benchmark.gpu.formulations import release_memory
from pconv_deploy.benchmark.gpu.results import (
    GpuReport,
    Measurement,
    Participant,
    Setting,
    markdown,
)
from pconv_deploy.benchmark.gpu.steps import Fills, Progress, Ready, timed
from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.errors import EngineError, PConvError, UsageError
from pconv_deploy.files import atomic_file
from pconv_deploy.masks.irregular import irregular_hole
from pconv_deploy.parity import Arrays

BATCHES, SIDES = (1, 8, 32), (256, 512, 1024)
_HOLE_AREA = (0.2, 0.3)
_LONGEST = 300  # characters of an exception's first line
# Fills that are further from the reference's are none of this photo. Half precision is a few
# levels off; memory that was not written, or the fill of another shape, most of 255.
_FARTHEST = 32


@dataclass(frozen=True, kw_only=True)
class GpuReportOptions:
    """What is measured.

    batches, sides   every pair of them
    rounds           runs of each, at most
    limit            seconds after which there are enough of them
    """

    batches: Sequence[int] = BATCHES
    sides: Sequence[int] = SIDES
    rounds: int = 200
    limit: float = 20.0

    def settings(self) -> list[Setting]:
        """Everything that is measured of one contender."""
        return [
            Setting(batch=batch, side=side, transfers=transfers, cuda_graph=graph)
            for batch, side, graph, transfers in itertools.product(
                self.batches, self.sides, (True, False), (False, True)
            )
        ]


@dataclass
class Recorder:
    """The report so far, written anew with everything that is added."""

    report: GpuReport
    output: Path
    paths: tuple[Path, Path] = field(init=False)

    def __post_init__(self) -> None:
        self.paths = report_paths(self.output, self.report.device)

    def add(self, *new: Measurement, participant: Participant | None = None) -> None:
        old = self.report
        joined = (*old.participants, participant) if participant else old.participants
        self._write(
            msgspec.structs.replace(
                old, participants=joined, measurements=(*old.measurements, *new)
            )
        )

    def finish(self) -> None:
        self._write(msgspec.structs.replace(self.report, finished=True))

    def _write(self, report: GpuReport) -> None:
        self.report = report
        data, text = self.paths
        with atomic_file(data) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
        with atomic_file(text) as partial:
            partial.write_text(markdown(report), encoding="utf-8")


def report_paths(output: Path, device: str) -> tuple[Path, Path]:
    """JSON and Markdown, named after the device."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return output / f"{name}.json", output / f"{name}.md"


def chosen(everyone: Sequence[GpuContender], only: Sequence[str]) -> list[GpuContender]:
    """Those whose names have one of the words of `only`; everyone if there are none.

    Raises:
        UsageError: nobody is left.
    """
    left = [one for one in everyone if not only or any(words in one.name for words in only)]
    if not left:
        names = "; ".join(one.name for one in everyone)
        raise UsageError(f"no contender matches --only; available: {names}")
    return left


def measure_all(
    everyone: Sequence[GpuContender],
    recorder: Recorder,
    options: GpuReportOptions,
    progress: Progress,
) -> None:
    """Time everyone at every setting; who fails is recorded with the reason, and the rest go on.

    Args:
        everyone: the first that gets ready is the reference of the others' fills, at each setting.
        recorder: is given each result as soon as there is one.
        options: what is measured.
        progress: is told each step as it begins.
    """
    settings = options.settings()
    fills = Fills()
    for number, contender in enumerate(everyone, 1):
        progress(f"[{number}/{len(everyone)}] {contender.name}: making ready")
        participant, ready = _made_ready(contender, settings, fills, progress)
        recorder.add(participant=participant)
        if ready is None:
            progress(f"  takes no part: {participant.why}")
            continue
        for measurement in _measured(contender.name, ready, options, fills):
            recorder.add(measurement)
            progress(f"  {measurement.setting.describe()}: {_result(measurement)}")
        ready.close()
        del ready
        release_memory()
    recorder.finish()


def _made_ready(
    contender: GpuContender,
    settings: Sequence[Setting],
    fills: Fills,
    progress: Progress,
) -> tuple[Participant, Ready | None]:
    """Prepare someone, and look at one fill of the smallest shape."""
    batch, side = min((setting.batch, setting.side) for setting in settings)
    look = Setting(batch=batch, side=side, transfers=True, cuda_graph=False)
    begun = time.perf_counter()
    ready: Ready | None = None
    try:
        ready = contender.prepare(progress)
        seconds = time.perf_counter() - begun
        step = ready.step(look, _inputs(look))
        step.run()
        levels = _compared(fills, step.filled())
    # Whatever a runtime raises is a line of the report, and no reason to lose the rest of it.
    except Exception as error:  # noqa: BLE001
        if ready is not None:
            with contextlib.suppress(Exception):  # why it failed is known
                ready.close()
        release_memory()
        return Participant(name=contender.name, why=_brief(error)), None
    participant = Participant(
        name=contender.name,
        runs_on=ready.runs_on,
        accepted=ready.accepted,
        levels=levels,
        seconds=seconds,
    )
    return participant, ready


def _measured(
    name: str, ready: Ready, options: GpuReportOptions, fills: Fills
) -> Iterator[Measurement]:
    for setting in options.settings():
        try:
            step = ready.step(setting, _inputs(setting))
            seconds = timed(step.run, options.rounds, options.limit)
            levels = _compared(fills, step.filled())
        except Exception as error:  # noqa: BLE001  as above
            yield Measurement(contender=name, setting=setting, why=_brief(error))
            release_memory()
            continue
        del step
        p50, p99 = (np.percentile(seconds, (50, 99)) * 1e3).tolist()
        yield Measurement(
            contender=name,
            setting=setting,
            rounds=len(seconds),
            p50=p50,
            p99=p99,
            images_per_second=setting.batch / p50 * 1e3,
            levels=levels,
        )


def _compared(fills: Fills, filled: NDArray[np.uint8]) -> int | None:
    """Refuse what is no fill of the photo: its time would be that of something else."""
    levels = fills.levels(filled)
    if levels is not None and levels > _FARTHEST:
        raise EngineError(f"its fill is {levels} of 255 off the first contender's: it is another")
    return levels


def _inputs(setting: Setting) -> Arrays:
    side = setting.side
    photo = np.asarray(sample_photo().resize((side, side), Image.Resampling.LANCZOS))
    hole = irregular_hole(np.random.default_rng(0), side, side, _HOLE_AREA)
    return {
        IMAGE: np.repeat(photo[None], setting.batch, axis=0),
        HOLE_MASK: np.repeat(hole[None], setting.batch, axis=0),
    }


def _brief(error: Exception) -> str:
    """Which error, in one line."""
    first = (str(error).strip().splitlines() or [""])[0][:_LONGEST]
    return first if isinstance(error, PConvError) else f"{type(error).__name__}: {first}"


def _result(m: Measurement) -> str:
    return m.why or f"p50 {m.p50:.3g} ms, p99 {m.p99:.3g} ms, {m.images_per_second:,.0f} images/s"
