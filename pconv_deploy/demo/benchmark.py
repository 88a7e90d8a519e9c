"""`make bench`: every runtime and precision this machine has, beside PyTorch, in one table.

The paper's network at full size with random weights; each row of the grid is one run in which
all contenders take turns. How near they come to what the machine can do is told by the fastest
convolution that ONNX Runtime has to offer here.
"""

import functools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import onnx
import onnxruntime
import typer

from pconv_deploy.bench import BenchOptions, BenchResult, bench
from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.demo.photos import photos
from pconv_deploy.demo.untrained import write_untrained
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.engines.tuning import TuneOptions
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.export.rewrites.work import multiply_adds
from pconv_deploy.files import atomic_file
from pconv_deploy.onnx_file import read_graph
from pconv_deploy.parity import Precision

# Batch, side, rounds. What is larger is left out for the time the literal formulation takes.
GRID = ((1, 512, 11), (1, 256, 11), (1, 1024, 5), (4, 256, 7), (4, 512, 5), (16, 256, 5))
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured; multiply-adds of one image of 512x512."""

    multiply_adds: int
    ceiling_gflops: float
    runs: tuple[BenchResult, ...]


def run_benchmark(
    output: Annotated[Path, typer.Option(help="Folder for engines and results.")] = Path("bench"),
    tune: Annotated[bool, typer.Option("--tune", help="Tune each engine first.")] = False,
) -> None:
    """Build every engine this machine can run, and time all of them beside PyTorch."""
    output.mkdir(parents=True, exist_ok=True)
    checkpoint, graph = output / NETWORK_FILE, output / "model.onnx"
    progress = functools.partial(print, file=sys.stderr)
    progress("making the network")
    write_untrained(checkpoint)
    export_checkpoint(checkpoint, graph, overwrite=True, progress=progress)
    tuning = TuneOptions() if tune else None
    engines = []
    for backend in BACKENDS:
        for precision in _PRECISIONS:
            if why := backend.why_not_run() or backend.why_not(precision):
                progress(f"no {backend.name} {precision}: {why}")
                continue
            build = BuildOptions(backend=backend.name, precision=precision, tune=tuning)
            engines.append(output / f"{backend.name}-{precision}.engine")
            build_engine(graph, engines[-1], build, overwrite=True, progress=progress)
    runs = []
    for batch, side, rounds in GRID:
        progress(f"batch {batch}, {side}x{side}")
        runs.append(_timed(engines, checkpoint, batch, side, rounds))
    result = Benchmark(
        multiply_adds=multiply_adds(read_graph(graph).model, 512, 512),
        ceiling_gflops=round(convolution_ceiling(), 1),
        runs=tuple(runs),
    )
    _write(output / "results.json", msgspec.json.format(msgspec.json.encode(result)))
    _write(output / "results.md", "".join(_tables(result)).encode())
    progress(f"results in {output / 'results.md'}")


def _timed(
    engines: list[Path], checkpoint: Path, batch: int, side: int, rounds: int
) -> BenchResult:
    memory = (batch, side) == (1, 512)
    options = BenchOptions(batch=batch, size=(side, side), rounds=rounds, warm_up=1, memory=memory)
    photo = next(iter(photos().values()))
    return bench(engines, against=checkpoint, photo=photo, options=options)


def convolution_ceiling(rounds: int = 15) -> float:
    """GFLOP/s of ONNX Runtime on the convolution it is best at: wide, 3x3, in the cache."""
    channels, side = 256, 64
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    shape = [1, channels, side, side]
    graph = helper.make_graph(
        [node],
        "ceiling",
        [helper.make_tensor_value_info("x", floats, shape)],
        [helper.make_tensor_value_info("y", floats, shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = rng.normal(size=shape).astype(np.float32)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        session.run(None, {"x": x})
        seconds.append(time.perf_counter() - start)
    return 2 * weight.size * side * side / min(seconds) / 1e9


def _tables(result: Benchmark) -> Iterable[str]:
    environment = ", ".join(f"{key} {value}" for key, value in result.runs[0].environment.items())
    work = 2 * result.multiply_adds / 1e9  # GFLOP
    yield f"{environment}\n"
    yield (
        f"{work:.1f} GFLOP for an image of 512x512 as exported; ONNX Runtime's fastest "
        f"convolution here: {result.ceiling_gflops:.0f} GFLOP/s. *Of the ceiling* counts the "
        "convolutions alone.\n"
    )
    for run in result.runs:
        what = f"batch {run.batch}, {run.height}x{run.width}, {run.rounds} rounds"
        yield f"\n| {what} | p50 ms | p90 | images/s | times faster (p10-p90) "
        yield "| of the ceiling | peak MiB |\n"
        yield "|---|---|---|---|---|---|---|\n"
        engines = {fact.contender for fact in run.engines}
        floor = 1e3 * work * run.batch * run.height * run.width / 512**2 / result.ceiling_gflops
        for timing in run.contenders:
            ratio = f"{timing.ratio:.2f} ({timing.ratio_p10:.2f}-{timing.ratio_p90:.2f})"
            share = f"{floor / timing.p50:.0%}" if timing.name in engines else ""
            memory = f"{timing.peak_mib:.0f}" if timing.peak_mib else ""
            yield f"| {timing.name} | {timing.p50:.0f} | {timing.p90:.0f} "
            yield f"| {timing.images_per_second:.2f} | {ratio} | {share} | {memory} |\n"


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as partial:
        partial.write_bytes(content)


if __name__ == "__main__":
    typer.run(run_benchmark)
