"""Everyone timed at every setting of a GPU report, and written down at once."""

import contextlib
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.benchmark.gpu.formulations import release_memory
from pconv_deploy.benchmark.gpu.results import (
    GpuReport,
    Measurement,
    Participant,
    Setting,
    markdown,
)
from pconv_deploy.benchmark.gpu.steps import WARM_UP, Fills, GpuContender, Progress, Ready
from pconv_deploy.benchmark.photo import photo_with_hole
from pconv_deploy.benchmark.report import write_report
from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.errors import PConvError
from pconv_deploy.parity import Arrays
from pconv_deploy.timing import Contender, milliseconds, take_turns

BATCHES, SIDES = (1, 8, 32), (256, 512, 1024)
_LONGEST = 300  # characters of an exception's first line


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
    paths: tuple[Path, Path]

    def add(self, measurement: Measurement) -> None:
        self._write(measurements=(*self.report.measurements, measurement))

    def add_participant(self, participant: Participant) -> None:
        self._write(participants=(*self.report.participants, participant))

    def finish(self) -> None:
        self._write(finished=True)

    def _write(self, **changes: object) -> None:
        self.report = msgspec.structs.replace(self.report, **changes)
        write_report(self.paths, self.report, markdown(self.report))


def report_paths(output: Path, device: str) -> tuple[Path, Path]:
    """JSON and Markdown, named after the device."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return output / f"{name}.json", output / f"{name}.md"


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
    fills = Fills()
    for number, contender in enumerate(everyone, 1):
        progress(f"[{number}/{len(everyone)}] {contender.name}: making ready")
        _measure_one(contender, recorder, options, fills, progress)
        release_memory()
    recorder.finish()


def _measure_one(
    contender: GpuContender,
    recorder: Recorder,
    options: GpuReportOptions,
    fills: Fills,
    progress: Progress,
) -> None:
    """Prepare a contender, check one fill of the smallest shape, time it, close it."""
    settings = options.settings()
    smallest = min(settings, key=lambda setting: (setting.batch, setting.side))
    look = msgspec.structs.replace(smallest, transfers=True, cuda_graph=False)
    with contextlib.ExitStack() as stack:
        begun = time.perf_counter()
        try:
            ready = contender.prepare(progress)
            seconds = time.perf_counter() - begun
            stack.callback(_close, ready)
            step = ready.step(look, _inputs(look))
            step.run()
            levels = fills.levels(step.filled())
        # Whatever a runtime raises is a line of the report, and no reason to lose the rest of it.
        except Exception as error:  # noqa: BLE001
            why = _brief(error)
            recorder.add_participant(Participant(name=contender.name, why=why))
            progress(f"  takes no part: {why}")
            return
        del step  # its arrays are memory of the GPU
        recorder.add_participant(
            Participant(
                name=contender.name,
                runs_on=ready.runs_on,
                accepted=ready.accepted,
                levels=levels,
                seconds=seconds,
            )
        )
        for setting in settings:
            measurement = _measured(contender.name, ready, setting, options, fills)
            recorder.add(measurement)
            progress(f"  {setting.describe()}: {_result(measurement)}")
            if measurement.why:
                release_memory()


def _close(ready: Ready) -> None:
    with contextlib.suppress(Exception):  # what it computed is measured, or why it failed is known
        ready.close()


def _measured(
    name: str, ready: Ready, setting: Setting, options: GpuReportOptions, fills: Fills
) -> Measurement:
    try:
        step = ready.step(setting, _inputs(setting))
        turn = Contender(step.run, pause=0)
        times = take_turns({name: turn}, options.rounds, warm_up=WARM_UP, limit=options.limit)
        levels = fills.levels(step.filled())
    except Exception as error:  # noqa: BLE001  as above
        return Measurement(contender=name, setting=setting, why=_brief(error))
    p50, p99 = milliseconds(times[name], 50, 99)
    return Measurement(
        contender=name,
        setting=setting,
        rounds=len(times[name]),
        p50=p50,
        p99=p99,
        images_per_second=setting.batch / p50 * 1e3,
        levels=levels,
    )


def _inputs(setting: Setting) -> Arrays:
    photo, hole = photo_with_hole(sample_photo(), setting.side, setting.side)
    return {
        IMAGE: np.repeat(np.asarray(photo)[None], setting.batch, axis=0),
        HOLE_MASK: np.repeat(hole[None], setting.batch, axis=0),
    }


def _brief(error: Exception) -> str:
    """Which error, in one line."""
    first = (str(error).strip().splitlines() or [""])[0][:_LONGEST]
    return first if isinstance(error, PConvError) else f"{type(error).__name__}: {first}"


def _result(m: Measurement) -> str:
    return m.why or f"p50 {m.p50:.3g} ms, p99 {m.p99:.3g} ms, {m.images_per_second:,.0f} images/s"
