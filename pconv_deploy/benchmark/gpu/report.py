"""`make gpu-report`: what a GPU can do with the network, measured with everything it has to offer.

Builds engines, checks them, times everyone at every shape, and writes JSON and Markdown named
after the GPU after each measurement, so that whatever stops it costs one of them.
"""

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pconv_deploy.benchmark.gpu.contenders import chosen, contenders
from pconv_deploy.benchmark.gpu.measuring import (
    BATCHES,
    SIDES,
    GpuReportOptions,
    Recorder,
    measure_all,
    report_paths,
)
from pconv_deploy.benchmark.gpu.results import GpuReport
from pconv_deploy.benchmark.report import describe_machine
from pconv_deploy.benchmark.untrained import write_untrained
from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.engines.cuda.devices import current_gpu
from pconv_deploy.errors import PConvError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.graphs.file import read_graph

# TensorRT comes under several names: alone, or for one release of CUDA.
_PACKAGES = (
    *("pconv-deploy", "torch", "onnxruntime", "onnxruntime-gpu", "cuda-bindings"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu13"),
    *("onnxruntime-ep-nv-tensorrt-rtx-cu12", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
)


def run_gpu_report(  # noqa: PLR0913  one parameter per option
    output: Annotated[Path, typer.Option(help="Folder of results and engines.")] = Path(
        "gpu-report"
    ),
    rounds: Annotated[int, typer.Option(min=3, help="Runs of each measurement, at most.")] = 200,
    limit: Annotated[float, typer.Option(help="Seconds of each measurement, at most.")] = 20.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Contenders whose names have this; may be repeated.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Default: 1, 8 and 32.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Default: 256, 512 and 1024.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Default: the paper's network, untrained.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report.")] = False,
    device: Annotated[str, typer.Option(hidden=True)] = "cuda",
) -> None:
    """Measure everything that fills holes on this machine's GPU."""
    options = GpuReportOptions(
        batches=batch or BATCHES, sides=size or SIDES, rounds=rounds, limit=limit
    )
    make_report(output, options, only or (), checkpoint, device=device, overwrite=overwrite)


def make_report(
    output: Path,
    options: GpuReportOptions,
    only: Sequence[str] = (),
    checkpoint: Path | None = None,
    *,
    device: str = "cuda",
    overwrite: bool = False,
) -> Recorder:
    """Make a report on this machine's GPU.

    Args:
        output: folder of results and engines.
        options: what is measured.
        only: parts of contenders' names; none takes everyone.
        checkpoint: None takes the paper's network, untrained.
        device: "cpu" tries the report out, without a GPU.
        overwrite: replace a report on the same GPU.

    Raises:
        EngineError: there is no GPU, or none that can be used.
        UsageError: there is a report already, or `only` matches no contender.
    """
    gpu = current_gpu() if device == "cuda" else None
    name = gpu.name if gpu else "CPU only"
    paths = report_paths(output, name)
    if paths[1].exists() and not overwrite:
        raise UsageError(f"{paths[1]} already exists; pass --overwrite, or another --output")
    output.mkdir(parents=True, exist_ok=True)
    network = checkpoint or output / NETWORK_FILE
    graph = output / "model.onnx"
    if checkpoint is None:
        _progress("making the network")
        write_untrained(network)
    export_checkpoint(network, graph, overwrite=True, progress=_progress)
    shapes = [(batch, side, side) for batch in options.batches for side in options.sides]
    everyone = contenders(network, graph, output / "engines", device, shapes)
    taking_part = chosen(everyone, only)
    report = GpuReport(
        device=name,
        gpu=gpu,
        network=read_graph(graph).contract.source.describe_network(),
        environment=describe_machine(_PACKAGES),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=options.rounds,
        planned=len(taking_part) * len(options.settings()),
    )
    recorder = Recorder(report, paths)
    measure_all(taking_part, recorder, options, _progress)
    _progress(f"report in {paths[1]}")
    return recorder


def _progress(step: str) -> None:
    typer.echo(step, err=True)


def main() -> None:
    """Run, and tell what went wrong as `pconv-deploy` does: in a line, with its exit code."""
    try:
        typer.run(run_gpu_report)
    except PConvError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
