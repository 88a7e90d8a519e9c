"""`pconv-deploy build-engine`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pconv_deploy.cli import tensorrt_options as trt
from pconv_deploy.cli.build_progress import building
from pconv_deploy.cli.build_report import tell_engine
from pconv_deploy.cli.console import WEIGHTS_KEY_HELP, typed_command
from pconv_deploy.cli.mask_options import (
    Convention,
    MaskConvention,
    MaskThreshold,
    mask_rule,
)
from pconv_deploy.cli.options import Overwrite, Size, size_option
from pconv_deploy.errors import UsageError, needs
from pconv_deploy.file_types import is_graph

if TYPE_CHECKING:
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions


def build_engine(
    source: Annotated[
        Path,
        typer.Argument(help="Checkpoint, exported ONNX file, or engine folder to rebuild."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Engine folder to create. Default for an engine folder: replace it.",
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
    size: Annotated[
        Size | None,
        size_option(
            help="Checkpoint only: fixed height x width, such as 512 or 512x768. Default: any size."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Checkpoint only: fixed batch size. Default: any."),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "-O",
            min=0,
            max=2,
            help="Checkpoint only: rewrite level, as in `export`. Default: 2.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Checkpoint only: rewrite to skip, as in `export`. Repeatable."
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help=f"Checkpoint only: {WEIGHTS_KEY_HELP[0].lower()}{WEIGHTS_KEY_HELP[1:]}",
            metavar="KEY",
        ),
    ] = None,
    tensor_level: Annotated[
        bool,
        typer.Option(
            "--tensor-level",
            help="Checkpoint only: build an engine of float tensors instead of uint8 images.",
        ),
    ] = False,
    keep_graph: Annotated[
        Path | None,
        typer.Option(help="Checkpoint only: also write the ONNX file here.", metavar="FILE"),
    ] = None,
    calibration_photos: Annotated[
        Path | None,
        typer.Option(help="Folder of at least 12 representative photos; required for int8."),
    ] = None,
    calibration_holes: Annotated[
        Path | None,
        typer.Option(help="Folder of hole masks for calibration. Default: random holes."),
    ] = None,
    mask_convention: MaskConvention = Convention.HOLE_WHITE,
    mask_threshold: MaskThreshold = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Measure which equivalent form of the graph is fastest on this machine."
        ),
    ] = False,
    tune_size: Annotated[
        Size | None, size_option(help="Height x width to tune for. Default: 512.")
    ] = None,
    tune_batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Batch size to tune for. Default: 1.")
    ] = None,
    tune_threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="CPU threads to tune for. Default: the runtime's choice."
        ),
    ] = None,
    no_windows: Annotated[
        bool,
        typer.Option(
            "--no-windows", help="Build without windows: small holes take as long as large ones."
        ),
    ] = False,
    overwrite: Overwrite = False,
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
    """Build an engine folder from a checkpoint or its exported graph, and verify it.

    A checkpoint is exported on the way, which needs torch: its graph is compared with PyTorch, the
    engine with the graph. A network of your own is exported first, with `export --module`.

    The folder holds the runtime's own files, the graph, and manifest.json: what the engine was
    built from, with what, for which machine, the files' hashes and the results of the comparison.

    Given an engine folder instead, it is built again from the graph that it keeps, with the
    options that it was built with and those that are given here. The old engine stays until the
    new one is accepted.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.commands.build import build_engine as build
        from pconv_deploy.engines.int8.calibration import CalibrationFiles
        from pconv_deploy.engines.options import BuildOptions
        from pconv_deploy.engines.rebuild import kept_engine, recorded_options
        from pconv_deploy.engines.tuning import TuneOptions
        from pconv_deploy.images.hole_rule import DEFAULT_RULE

    rule = mask_rule(mask_convention, mask_threshold)
    if not calibration_holes and rule != DEFAULT_RULE:
        raise UsageError("--mask-convention and --mask-threshold go with --calibration-holes")
    calibration = None
    if calibration_photos:
        calibration = CalibrationFiles(
            photos=calibration_photos, holes=calibration_holes, mask_rule=rule
        )
    elif calibration_holes:
        raise UsageError("--calibration-holes goes with --calibration-photos")
    if not tune and (tune_size or tune_batch or tune_threads):
        raise UsageError("--tune-size, --tune-batch and --tune-threads go with --tune")
    tuning = TuneOptions(
        size=tune_size,
        batch=tune_batch,
        threads=tune_threads,
    )
    exported = _export_options(
        {
            "size": size,
            "batch": batch,
            "level": level,
            "without": tuple(n.strip() for names in without or () for n in names.split(",")),
            "weights_key": weights_key,
            "kind": "tensor" if tensor_level else None,
        }
    )
    engine = kept_engine(source)
    recorded = recorded_options(engine.manifest, backend) if engine else BuildOptions()
    options = replace(
        recorded,
        backend=backend or recorded.backend,
        precision=precision or recorded.precision,
        calibration=calibration,
        tune=tuning if tune else recorded.tune,
        windows=recorded.windows and not no_windows,
        backend_options=trt.tensorrt_options(
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
            recorded.backend_options,
        ),
    )
    with building() as progress:
        manifest = build(
            source,
            output,
            options,
            export=exported,
            keep_graph=keep_graph,
            overwrite=overwrite,
            command=typed_command(),
            progress=progress,
        )
    was_exported = engine is None and not is_graph(source)
    tell_engine(manifest, output or (engine.folder if engine else source), exported=was_exported)


def _export_options(given: "dict[str, Any]") -> "ExportOptions | None":
    """What was said of the export; None: nothing was, as of a source that is not exported."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    if not said:
        return None
    with needs("pconv-deploy[export]", what="exporting a checkpoint"):
        from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
    return ExportOptions(**said)
