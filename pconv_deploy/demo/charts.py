"""Bars of the demo's report: one chart for speed, memory, size and quality each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pconv_deploy.benchmark.run import Timing
from pconv_deploy.demo.fills import TELEA
from pconv_deploy.demo.results import WIDE, DemoResult, spread

Role = Literal["main", "engine", "torch", "classical"]
_NO_BREAK = "\N{NO-BREAK SPACE}"
_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "PyTorch eager": "PyTorch"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One contender; lengths in percent of the longest.

    value     the number, as it is written
    detail    what is written beside it
    more      length of a second part behind the first
    low, high ends of the whisker; None: there is none
    rough     the number varied much while it was measured
    """

    name: str
    role: Role
    length: float
    value: str
    detail: str = ""
    more: float = 0.0
    low: float | None = None
    high: float | None = None
    rough: bool = False


@dataclass(frozen=True)
class Chart:
    """Bars under a title; `hint` says what is measured and which end is better."""

    title: str
    hint: str
    bars: tuple[Bar, ...]


def charts(result: DemoResult) -> list[Chart]:
    """All charts that there is something to show in."""
    made = [_speed(result), _memory(result), _size(result), _quality(result)]
    return [chart for chart in made if chart.bars]


def display_name(contender: str) -> str:
    """'onnxruntime, fp32' -> 'ONNX Runtime fp32'; others as they are, without commas."""
    first, _, rest = contender.partition(", ")
    return f"{_NAMES.get(first, first)} {rest}".strip()


def scientific(value: float | None) -> str:
    """0.000012 -> '1.2 × 10⁻⁵'; None, where nothing was compared, -> a dash."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits}{_NO_BREAK}×{_NO_BREAK}10{raised}"


def _role(contender: str, result: DemoResult) -> Role:
    if contender == result.main:
        return "main"
    if contender == TELEA:
        return "classical"
    return "engine" if contender in result.manifests else "torch"


def _bars(
    result: DemoResult, values: Mapping[str, float | None], form: str, longest: float | None = None
) -> Iterator[Bar]:
    """Return a bar for each contender that has a value; `form` says how the value is written."""
    known = {name: value for name, value in values.items() if value}
    longest = longest or max(known.values(), default=1.0)
    for name, value in known.items():
        yield Bar(
            name=display_name(name),
            role=_role(name, result),
            length=100 * value / longest,
            value=form.format(value),
        )


def _speed(result: DemoResult) -> Chart:
    timings = result.bench.contenders
    longest = max(t.ratio_p90 or 1.0 for t in timings)
    bars = _bars(result, {t.name: t.ratio or 1.0 for t in timings}, "{:.1f}×", longest)
    return Chart(
        "Speed",
        f"How many times faster than PyTorch, {result.bench.height}×{result.bench.width} pixels. "
        "Longer is better; the line spans the 10th to 90th percentile of the rounds.",
        tuple(_with_spread(*pair, longest, result) for pair in zip(bars, timings, strict=True)),
    )


def _with_spread(bar: Bar, timing: Timing, longest: float, result: DemoResult) -> Bar:
    whisker = timing.name != result.reference.name
    ratio = timing.ratio or 1.0
    return replace(
        bar,
        detail=f"{timing.p50:.0f} ms",
        low=100 * (timing.ratio_p10 or ratio) / longest if whisker else None,
        high=100 * (timing.ratio_p90 or ratio) / longest if whisker else None,
        rough=spread(timing) > WIDE,
    )


def _memory(result: DemoResult) -> Chart:
    peaks = {t.name: t.peak_mib for t in result.bench.contenders}
    return Chart(
        "Memory",
        "Peak of a process that fills one such photo and does nothing else, Python and libraries "
        "included. Shorter is better.",
        tuple(_bars(result, peaks, "{:.0f} MiB")),
    )


def _size(result: DemoResult) -> Chart:
    sizes = {name: engine_mib(result, name) for name in result.manifests}
    longest = max(needed + kept for needed, kept in sizes.values())
    bars = _bars(
        result, {name: needed for name, (needed, _) in sizes.items()}, "{:.1f} MiB", longest
    )
    return Chart(
        "Size on disk",
        "What running the engine takes. The paler part is kept to prove it on other machines and "
        "to build it again; it may be deleted. Shorter is better.",
        tuple(
            replace(bar, more=100 * kept / longest, detail=f"+ {kept:.1f}")
            for bar, (_, kept) in zip(bars, sizes.values(), strict=True)
        ),
    )


def engine_mib(result: DemoResult, contender: str) -> tuple[float, float]:
    """MiB of an engine's files that running it needs, and of those that are kept beside them."""
    manifest = result.manifests[contender]
    needed, kept = (
        sum(file.size for file in some.values()) / 2**20 for some in (manifest.files, manifest.kept)
    )
    return needed, kept


def _quality(result: DemoResult) -> Chart:
    return Chart(
        "Quality",
        f"PSNR in the holes of the {len(result.photos)} photos above, against the original "
        "photos. Longer is better.",
        tuple(_bars(result, {n: score.psnr for n, score in result.scores.items()}, "{:.2f} dB")),
    )
