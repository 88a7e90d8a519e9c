"""`make bench`: every runtime and precision this machine has, beside PyTorch, in one table.

The paper's network at full size, and the demo's; each table is one run in which all contenders
take turns. How near they come to what the machine can do is told by the fastest convolutions that
the runtimes have to offer here, in each precision.
"""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from pconv_deploy.assets.network import copy_network
from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.benchmark.ceilings import convolution_ceilings
from pconv_deploy.benchmark.contenders import REFERENCE, Fill
from pconv_deploy.benchmark.report import table, write_report
from pconv_deploy.benchmark.rivals import rivals
from pconv_deploy.benchmark.run import BenchOptions, BenchResult, bench
from pconv_deploy.benchmark.suite_engines import build_engines, write_crops
from pconv_deploy.benchmark.untrained import write_untrained
from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.engines.int8.quantise import Quantisation
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.multiply_adds import multiply_adds
from pconv_deploy.parity import Precision


class Setting(NamedTuple):
    """One run.

    hole    side of a square one; None: strokes that cover a quarter
    rivals  with what a user could pick instead, for one image of 512x512
    """

    batch: int
    size: tuple[int, int]
    rounds: int
    hole: int | None = None
    rivals: bool = False

    def describe(self) -> str:
        """One phrase for people."""
        hole = f"hole of {self.hole}x{self.hole}" if self.hole else "strokes over a quarter"
        return f"batch {self.batch}, {self.size[0]}x{self.size[1]}, {hole}"


_USUAL, _PHOTO = (512, 512), (1536, 2048)
FULL_SIZE = (
    Setting(1, _USUAL, 5, rivals=True),
    Setting(1, _USUAL, 5, 64, rivals=True),
    *(Setting(1, _USUAL, 5, hole) for hole in (128, 256, 384)),
    Setting(1, (256, 256), 5),
    Setting(1, (1024, 1024), 2),
    Setting(4, _USUAL, 2),
    Setting(1, _PHOTO, 2, 200),
)
COMPACT = (Setting(1, _USUAL, 7), Setting(1, _USUAL, 7, 64))
_MIB_PER_PIXEL = 1000 / 512**2  # what the literal formulation of the full-size network takes


class NetworkBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured of one network.

    multiply_adds  of one image of 512x512
    int8           by contender: what its engine lost; none where it was not judged
    left_out       what was not measured, and why
    """

    network: str
    multiply_adds: int
    int8: Mapping[str, Quantisation]
    runs: tuple[BenchResult, ...]
    left_out: tuple[str, ...]


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Every network, and GFLOP/s of the fastest convolutions, by precision."""

    ceilings: Mapping[Precision, float]
    networks: tuple[NetworkBenchmark, ...]


def run_benchmark(
    output: Annotated[Path, typer.Option(help="Folder for engines and results.")] = Path("bench"),
    tune: Annotated[bool, typer.Option("--tune", help="Tune each engine first.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The demo's network alone, in fewer rounds.")
    ] = False,
) -> None:
    """Build every engine this machine can run, and time all of them beside PyTorch."""
    progress = functools.partial(print, file=sys.stderr)
    crops = write_crops(output / "calibration")

    def measured(
        name: str, write: Callable[[Path], object], settings: Sequence[Setting], *, trained: bool
    ) -> NetworkBenchmark:
        folder = output / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, graph = folder / NETWORK_FILE, folder / "model.onnx"
        progress(f"exporting the {name} network")
        write(checkpoint)
        export_checkpoint(checkpoint, graph, overwrite=True, progress=progress)
        engines = build_engines(graph, crops, folder, judged=trained, tune=tune, progress=progress)
        wanted = [one._replace(rounds=3, rivals=False) for one in settings] if quick else settings
        fitting = [one for one in wanted if _mib(one) < _memory_mib()]
        contract = read_graph(graph).contract
        with contextlib.ExitStack() as stack:
            others: dict[str, Fill] = {}
            if any(one.rivals for one in fitting):
                others = rivals(checkpoint, _USUAL, contract, stack, progress)
            runs = tuple(_timed(engines, checkpoint, one, others, progress) for one in fitting)
        quantised = {f"{m.backend}, int8": m.quantisation for m in map(read_manifest, engines)}
        return NetworkBenchmark(
            network=name,
            multiply_adds=multiply_adds(read_graph(graph).model, 512, 512),
            int8={contender: facts for contender, facts in quantised.items() if facts},
            runs=runs,
            left_out=tuple(_too_large(one) for one in wanted if one not in fitting),
        )

    networks = [measured("compact", copy_network, COMPACT, trained=True)]
    if not quick:
        networks.insert(0, measured("full-size", write_untrained, FULL_SIZE, trained=False))
    contract = read_graph(output / "compact" / "model.onnx").contract
    result = Benchmark(ceilings=convolution_ceilings(contract), networks=tuple(networks))
    paths = (output / "results.json", output / "results.md")
    write_report(paths, result, "".join(_page(result)))
    progress(f"results in {paths[1]}")


def _mib(setting: Setting) -> float:
    """Roughly what the hungriest contender takes."""
    return setting.batch * math.prod(setting.size) * _MIB_PER_PIXEL


def _memory_mib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20


def _too_large(setting: Setting) -> str:
    return (
        f"{setting.describe()}: literal PyTorch takes about {_mib(setting):.0f} MiB of this "
        f"machine's {_memory_mib():.0f}"
    )


def _timed(
    engines: list[Path],
    checkpoint: Path,
    setting: Setting,
    others: Mapping[str, Fill],
    progress: Callable[[str], None],
) -> BenchResult:
    progress(setting.describe())
    batch, size, rounds, hole, with_rivals = setting
    memory = with_rivals and hole is None  # once: each contender takes some seconds
    options = BenchOptions(
        batch=batch, size=size, hole=hole, rounds=rounds, warm_up=1, memory=memory
    )
    return bench(
        engines,
        against=checkpoint,
        others=others if with_rivals else {},
        photo=sample_photo(),
        options=options,
    )


def _page(result: Benchmark) -> Iterator[str]:
    ceilings = ", ".join(f"{name} {value:.0f}" for name, value in result.ceilings.items())
    environment = result.networks[0].runs[0].environment
    yield f"{', '.join(f'{key} {value}' for key, value in environment.items())}\n"
    yield f"The fastest convolutions here, GFLOP/s: {ceilings}. *Of the ceiling* counts the "
    yield "convolutions alone, at that speed.\n"
    for network in result.networks:
        yield f"\n## The {network.network} network\n\n"
        yield f"{2 * network.multiply_adds / 1e9:.1f} GFLOP for an image of 512x512 as exported.\n"
        for contender, facts in network.int8.items():
            kept = len(facts.kept)
            yield f"{contender}: {facts.psnr:.1f} dB (the worst photo {facts.worst_psnr:.1f}) in "
            yield f"the holes of {facts.held_back} photos kept back, {kept} layers in fp32.\n"
        if not network.int8:
            yield "int8: all layers in eight bits, what they fill was not judged.\n"
        for run in network.runs:
            yield from _table(run, 2 * network.multiply_adds / 1e9, result.ceilings)
        yield from (f"\nNot measured: {what}.\n" for what in network.left_out)


def _table(run: BenchResult, gflop: float, ceilings: Mapping[Precision, float]) -> Iterable[str]:
    """Lay out one run; gflop: of one image of 512x512."""
    setting = Setting(run.batch, (run.height, run.width), run.rounds, run.hole_side)
    what = f"{setting.describe()}, {run.rounds} rounds"
    columns = ("p50 ms", "p90", "images/s", "times faster (p10-p90)", "of the ceiling", "peak MiB")
    work = gflop * run.batch * run.height * run.width / 512**2
    floors = {
        fact.contender: 1e3 * work / ceiling
        for fact in run.engines
        if run.hole_side is None and (ceiling := ceilings.get(fact.precision))
    }
    rows = (
        (
            t.name,
            f"{t.p50:.0f}",
            f"{t.p90:.0f}",
            f"{t.images_per_second:.2f}",
            "1" if t.name == REFERENCE else t.times_faster(),
            f"{floors[t.name] / t.p50:.0%}" if t.name in floors else "",
            f"{t.peak_mib:.0f}" if t.peak_mib else "",
        )
        for t in run.contenders
    )
    yield "\n"
    yield from (f"{line}\n" for line in table((what, *columns), rows))
    if run.warning:
        yield f"\nWarning: {run.warning}.\n"


if __name__ == "__main__":
    typer.run(run_benchmark)
