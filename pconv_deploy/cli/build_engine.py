"""`pconv-deploy build-engine`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from pconv_deploy.cli import tensorrt_options as trt
from pconv_deploy.cli.build_progress import building
from pconv_deploy.cli.console import ERR, OUT, parse_size
from pconv_deploy.cli.mask_options import (
    Convention,
    MaskConvention,
    MaskThreshold,
    mask_rule,
)
from pconv_deploy.errors import UsageError, needs

if TYPE_CHECKING:
    from pconv_deploy.engines.tuning import Tuning


def build_engine(
    graph: Annotated[
        Path,
        typer.Argument(
            help="ONNX file of `pconv-deploy export`; or an engine folder, which is built again."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Engine folder to create. Default, where GRAPH is an engine: replace that engine.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Runtime to build for; `pconv-deploy doctor` lists them. "
            "Default: onnxruntime, or the engine's own."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None,
        typer.Option(
            metavar="PRECISION",
            help="Precision of the convolutions: fp32, fp16, bf16 or int8. Default: that of the "
            "graph or engine.",
        ),
    ] = None,
    calibration_photos: Annotated[
        Path | None,
        typer.Option(help="For int8: folder of photos like those it will fill; twelve or more."),
    ] = None,
    calibration_holes: Annotated[
        Path | None,
        typer.Option(help="Folder of hole masks. Default: holes are drawn."),
    ] = None,
    mask_convention: MaskConvention = Convention.HOLE_WHITE,
    mask_threshold: MaskThreshold = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Measure which equal form of the graph is fastest here."),
    ] = False,
    tune_size: Annotated[
        str | None,
        typer.Option(help="Height x width to be fast at. Default: 512.", metavar="HxW"),
    ] = None,
    tune_batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Batch to be fast at. Default: 1.")
    ] = None,
    tune_threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that will be used.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
    min_shapes: trt.MinShapes = None,
    opt_shapes: trt.OptShapes = None,
    max_shapes: trt.MaxShapes = None,
    workspace: trt.Workspace = None,
    timing_cache_file: trt.TimingCacheFile = None,
    builder_optimization_level: trt.OptimizationLevel = None,
    hardware_compatibility_level: trt.HardwareCompatibility = None,
    version_compatible: trt.VersionCompatible = False,
    refit: trt.Refit = False,
    strip_weights: trt.StripWeights = False,
    tf32: trt.Tf32 = False,
    sparsity: trt.Sparsity = None,
    profiling_verbosity: trt.ProfilingVerbosity = None,
    max_aux_streams: trt.MaxAuxStreams = None,
    compute_capabilities: trt.ComputeCapabilities = None,
) -> None:
    """Build an engine folder from an exported graph, checked against the graph.

    The folder holds the runtime's own files, the graph, and manifest.json: what it was built from,
    with and for, the files' hashes, and the evidence that it computes the right thing.

    Given an engine folder instead, it is built again from the graph that it keeps, with the
    options that it was built with and those that are given here. The old engine stays until the
    new one is accepted.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.engines import folder
        from pconv_deploy.engines.acceptance import describe_mixed
        from pconv_deploy.engines.calibration import CalibrationFiles
        from pconv_deploy.engines.manifest import describe_parity
        from pconv_deploy.engines.rebuilding import kept_engine, recorded_options
        from pconv_deploy.engines.registry import backend_named
        from pconv_deploy.engines.request import BuildOptions
        from pconv_deploy.engines.tuning import TuneOptions

    if calibration_holes and not calibration_photos:
        raise UsageError("--calibration-holes goes with --calibration-photos")
    calibration = (
        CalibrationFiles(
            photos=calibration_photos,
            holes=calibration_holes,
            mask_rule=mask_rule(mask_convention, mask_threshold),
        )
        if calibration_photos
        else None
    )
    if not calibration_holes and (mask_convention != Convention.HOLE_WHITE or mask_threshold):
        raise UsageError("--mask-convention and --mask-threshold go with --calibration-holes")
    if not tune and (tune_size or tune_batch or tune_threads):
        raise UsageError("--tune-size, --tune-batch and --tune-threads go with --tune")
    tuning = TuneOptions(
        size=parse_size(tune_size, "--tune-size") if tune_size else None,
        batch=tune_batch,
        threads=tune_threads,
    )
    engine = kept_engine(graph)
    recorded = recorded_options(engine.manifest, backend) if engine else BuildOptions()
    options = replace(
        recorded,
        backend=backend or recorded.backend,
        precision=precision or recorded.precision,
        calibration=calibration,
        tune=tuning if tune else recorded.tune,
        tensorrt=trt.tensorrt_options(
            (min_shapes, opt_shapes, max_shapes),
            {
                "workspace": workspace,
                "timing_cache": str(timing_cache_file) if timing_cache_file else None,
                "optimization_level": builder_optimization_level,
                "hardware_compatibility": hardware_compatibility_level,
                "version_compatible": version_compatible,
                "refit": refit,
                "strip_weights": strip_weights,
                "tf32": tf32,
                "sparsity": sparsity,
                "profiling_verbosity": profiling_verbosity,
                "max_aux_streams": max_aux_streams,
                "compute_capabilities": tuple(compute_capabilities or ()) or None,
            },
            recorded.tensorrt,
        ),
    )
    with building() as progress:
        manifest = folder.build_engine(
            graph,
            output,
            options,
            overwrite=overwrite,
            progress=progress,
        )
    built, plan = manifest.built_with, manifest.plan
    name = output or (engine.folder if engine else graph)
    OUT.print(
        f"[bold]{escape(str(name))}[/bold]  {built.package} {built.version} on {built.device}, "
        f"{manifest.precision}" + ("" if plan else f", {manifest.contract.describe_shapes()}")
    )
    if manifest.arrangement:
        OUT.print(f"form of the graph: {manifest.arrangement.describe()}{_gain(manifest.tuning)}")
    known = escape(describe_parity(manifest))
    OUT.print(f"verified: {known}" if manifest.engine_parity else known)
    why = backend_named(manifest.backend).why_finer
    if mixed := describe_mixed(manifest.executed, manifest.precision, why):
        ERR.print(f"note: {mixed}", markup=False)
    if plan:
        OUT.print(f"built in {plan.build_seconds:.0f} s; takes, as batch x height x width:")
        for profile in plan.profiles:
            OUT.print(f"  {profile.describe()}", markup=False)
    if facts := manifest.quantisation:
        kept = escape(", ".join(facts.kept)) or "none"
        for why in facts.passed_over:
            ERR.print(f"note: passed over: {why}", markup=False)
        OUT.print(
            f"int8: calibrated on {facts.calibrated_on} photos ({facts.unusable} unusable); "
            f"{facts.psnr:.1f} dB in the holes of {facts.held_back} others "
            f"(worst {facts.worst_psnr:.1f}), filled by the {facts.judged_by}; "
            f"layers in single precision: {kept}"
        )


def _gain(tuning: "Tuning | None") -> str:
    """How much faster tuning made it, as the product of the comparisons that were won."""
    if tuning is None:
        return ""
    won = [t.against / t.milliseconds for t in tuning.trials if t.kept and t.against]
    tried = len(tuning.trials)
    rejected = sum(trial.rejected is not None for trial in tuning.trials)
    return (
        f", the fastest of {tried} tried"
        + (f" ({rejected} faster ones differ too much from the graph)" if rejected else "")
        + f", {math.prod(won):.2f} times as fast as the usual one"
    )
