"""`pconv-deploy bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich import box
from rich.markup import escape
from rich.table import Table

from pconv_deploy.cli.console import OUT, counted, print_json
from pconv_deploy.cli.options import Batch, JsonOutput, OptionalSize, between
from pconv_deploy.errors import needs

if TYPE_CHECKING:
    from pconv_deploy.benchmark.run import BenchResult


def bench(
    engines: list[Path],
    against: Path | None = None,
    photo: Path | None = None,
    batch: Batch = 1,
    size: OptionalSize = None,
    hole: Annotated[int | None, between(1)] = None,
    rounds: Annotated[int, between(3)] = 15,
    warm_up: Annotated[int, between(0)] = 2,
    threads: Annotated[int | None, between(1)] = None,
    memory: bool = False,
    json_output: JsonOutput = False,
) -> None:
    """Measure engines: latency by stage, and speed against PyTorch in the same run.

    All contenders take turns and do the same job, uint8 image and hole mask in, composited
    uint8 image out. Ratios are taken round by round against the literal PyTorch formulation.

    Options:
        engines: Engine folders, made by `pconv-deploy build-engine`.
        against: Checkpoint to time in PyTorch as well: literal and with collapsed masks.
        photo: Image to fill. Default: a bundled photo.
        size: Image height x width. Default: the engine's fixed size, or 512.
        hole: Side of a square hole, in pixels. Default: strokes over a quarter.
        rounds: Timed rounds; each contender runs once per round.
        warm_up: Untimed rounds before the timed ones.
        threads: CPU threads of each contender. Default: the runtime's choice.
        memory: Also run each contender in its own process to measure peak memory.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.assets.photos import sample_photo
        from pconv_deploy.benchmark.run import BenchOptions
        from pconv_deploy.benchmark.run import bench as measure
        from pconv_deploy.images.files import read_image

    options = BenchOptions(
        batch=batch,
        size=size,
        hole=hole,
        rounds=rounds,
        warm_up=warm_up,
        threads=threads,
        memory=memory,
    )
    picture = read_image(photo) if photo else sample_photo()
    with counted("measuring") as progress:
        result = measure(
            engines, against=against, photo=picture, options=options, progress=progress
        )
    if json_output:
        print_json(result)
    else:
        show(result)


def show(result: "BenchResult") -> None:
    """Print both tables."""
    machine = result.environment
    OUT.print(
        f"batch {result.batch}, {result.height}x{result.width}, hole {result.hole_share:.0%}, "
        f"{result.rounds} rounds, threads {result.threads or 'default'}; "
        f"{machine['processor']}, {machine['cores']} cores"
    )
    OUT.print("Each contender: uint8 image and hole mask in memory to uint8 composite in memory.")
    measured_memory = any(t.peak_mib for t in result.contenders)
    # Both would not fit into 80 columns.
    last = "peak MiB" if measured_memory else "images/s"
    table = _table("contender", "p50 ms", "p90", "p99", "times faster", last)
    for t in result.contenders:
        times = (f"{t.p50:.1f}", f"{t.p90:.1f}", f"{t.p99:.1f}")
        memory = f"{t.peak_mib:.0f}" if t.peak_mib else ""
        rate = f"{t.images_per_second:.2f}"
        table.add_row(escape(t.name), *times, t.times_faster(), memory if measured_memory else rate)
    OUT.print(table)
    for engine in result.engines:
        OUT.print(f"{engine.contender}: {engine.path}, {engine.runtime}", markup=False)
    OUT.print("The first engine's way from JPEG to PNG, both in memory:")
    stages = _table("stage", "p50 ms", "p90", "p99")
    for t in result.stages:
        stages.add_row(t.name, f"{t.p50:.1f}", f"{t.p90:.1f}", f"{t.p99:.1f}")
    OUT.print(stages)
    if result.warning:
        OUT.print(f"[yellow]warning:[/yellow] {escape(result.warning)}")


def _table(first: str, *figures: str) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table
