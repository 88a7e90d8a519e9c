"""What a GPU report holds, and how it is told in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pconv_deploy.benchmark.report import table
from pconv_deploy.engines.base import Gpu

# For whoever compares the figures with others.
METHOD = (
    "- Times are wall-clock, of one caller who waits for each run to end before the next; images a "
    "second are the batch over p50. Nothing is timed by the GPU's own events.",
    "- With transfers: from NumPy arrays to new NumPy arrays. PyTorch and TensorRT copy through "
    "pinned memory, which is part of their times; ONNX Runtime copies as it does.",
    "- On the GPU: arrays that stay at their addresses. Launching from Python is part of the "
    "times, and for TensorRT so is recognising the arrays in every call.",
    "- CUDA graph: captured for this very shape and these addresses. Each of TensorRT's runs is "
    "known to be one; ONNX Runtime and torch.compile do not tell.",
    "- One photo fills every place of every batch, and nothing empties the GPU's caches between "
    "runs.",
    "- fp32 is nowhere TF32. Whoever searches for kernels, also cuDNN in PyTorch, does so in runs "
    "that do not count.",
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure: images of side x side, `batch` of them at once.

    transfers   from host memory to host memory; else the arrays stay on the GPU
    cuda_graph  replayed from a CUDA graph
    """

    batch: int
    side: int
    transfers: bool
    cuda_graph: bool

    def describe(self) -> str:
        """One line for people."""
        return f"batch {self.batch}, {self.side}x{self.side}, {self.how()}"

    def how(self) -> str:
        """The same without the shape."""
        where = "with transfers" if self.transfers else "on the GPU"
        return f"{where}, {'CUDA graph' if self.cuda_graph else 'no graph'}"


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Wall-clock milliseconds of one contender at one setting, or why there are none.

    levels  0..255 that its fill differs from the first contender's, at most
    """

    contender: str
    setting: Setting
    rounds: int = 0
    p50: float | None = None
    p99: float | None = None
    images_per_second: float | None = None
    levels: int | None = None
    why: str | None = None


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """A contender as it was made ready.

    runs_on   package, version, GPU
    accepted  how near its engine is to the exported graph
    levels    0..255 that its first fill differs from the first contender's, at most
    seconds   to build or load it
    why       it takes no part, if it does not
    """

    name: str
    runs_on: str | None = None
    accepted: str | None = None
    levels: int | None = None
    seconds: float | None = None
    why: str | None = None


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; `planned` counts the measurements there are when it is finished."""

    device: str
    gpu: Gpu | None
    network: str
    environment: Mapping[str, str]
    created: str
    rounds: int
    planned: int
    finished: bool = False
    participants: tuple[Participant, ...] = ()
    measurements: tuple[Measurement, ...] = ()


def markdown(report: GpuReport) -> str:
    """Tell a report in Markdown: one table of contenders, one of times for each shape."""
    return "\n".join([*_head(report), "", *METHOD, *_participants(report), *_times(report), ""])


def _head(report: GpuReport) -> Iterable[str]:
    yield f"# {report.device}"
    yield ""
    environment = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    if gpu := report.gpu:
        yield (
            f"Compute capability {gpu.compute_capability}, {gpu.memory / (1 << 30):.0f} GiB, "
            f"driver {gpu.driver}, CUDA {gpu.cuda}; {environment}."
        )
    else:
        yield f"**No GPU: this tries out the report and says nothing of one.** {environment}."
    yield ""
    if not report.finished:
        done = len(report.measurements)
        yield f"**Not finished: {done} of {report.planned} measurements.**"
        yield ""
    yield (
        f"{report.network}. Begun {report.created}; at most {report.rounds} rounds each. "
        "uint8 image and hole mask in, composited uint8 image out."
    )


def _participants(report: GpuReport) -> Iterable[str]:
    header = ("contender", "runs on", "against its graph", "levels off", "s to build")
    yield from ("", *table(header, (_participant(one, report) for one in report.participants)))
    yield from (
        "",
        "*Levels off*: the most that a byte differs from the first contender's fill of the same "
        "photo, at any setting. A fill that is far off has no time.",
    )


def _participant(one: Participant, report: GpuReport) -> Sequence[str]:
    if one.why:
        return one.name, f"takes no part: {one.why}", "", "", ""
    all_levels = (one.levels, *(m.levels for m in report.measurements if m.contender == one.name))
    levels = max((n for n in all_levels if n is not None), default="")
    seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
    return one.name, one.runs_on or "", one.accepted or "", str(levels), seconds


def _times(report: GpuReport) -> Iterable[str]:
    found = {(m.contender, m.setting): m for m in report.measurements}
    settings = list(dict.fromkeys(m.setting for m in report.measurements))
    for batch, side in dict.fromkeys((s.batch, s.side) for s in settings):
        these = [s for s in settings if (s.batch, s.side) == (batch, side)]
        names = dict.fromkeys(name for name, setting in found if setting in these)
        notes: dict[str, int] = {}
        rows = [(n, *(_cell(found.get((n, s)), notes) for s in these)) for n in names]
        yield from ("", f"## Batch {batch}, {side}x{side}", "")
        yield "p50 / p99 milliseconds (images a second)"
        yield from ("", *table(("", *(s.how() for s in these)), rows), "")
        yield from (f"{number}. {why}" for why, number in notes.items())


def _cell(m: Measurement | None, notes: dict[str, int]) -> str:
    if m is None:
        return "not reached"
    if m.p50 is None or m.p99 is None or m.images_per_second is None:
        return f"none ({notes.setdefault(m.why or 'no reason given', len(notes) + 1)})"
    return f"{m.p50:.3g} / {m.p99:.3g} ({m.images_per_second:,.0f})"
