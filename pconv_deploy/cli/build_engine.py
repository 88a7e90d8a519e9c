"""`pconv-deploy build-engine`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pconv_deploy.cli import tensorrt_options as trt
from pconv_deploy.cli.build_progress import building
from pconv_deploy.cli.build_report import print_engine
from pconv_deploy.cli.console import typed_command
from pconv_deploy.cli.options import (
    Count,
    MaskConvention,
    MaskThreshold,
    Names,
    OptionalOutput,
    OptionalSize,
    Overwrite,
    split_names,
)
from pconv_deploy.errors import UsageError, needs
from pconv_deploy.file_types import is_graph

if TYPE_CHECKING:
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions


def build_engine(
    source: Path,
    output: OptionalOutput = None,
    backend: str | None = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None, typer.Option(metavar="PRECISION")
    ] = None,
    size: OptionalSize = None,
    batch: Count = None,
    level: Annotated[int | None, typer.Option("-O", min=0, max=2)] = None,
    without: Names = None,
    weights_key: Annotated[str | None, typer.Option(metavar="KEY")] = None,
    tensor_level: bool = False,
    keep_graph: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    calibration_photos: Path | None = None,
    calibration_holes: Path | None = None,
    mask_convention: MaskConvention = "hole-white",
    mask_threshold: MaskThreshold = None,
    tune: bool = False,
    tune_size: OptionalSize = None,
    tune_batch: Count = None,
    tune_threads: Count = None,
    no_windows: bool = False,
    overwrite: Overwrite = False,
    min_shapes: trt.Shapes = None,
    opt_shapes: trt.Shapes = None,
    max_shapes: trt.Shapes = None,
    workspace: trt.Workspace = None,
    timing_cache_file: trt.File = None,
    builder_optimization_level: trt.Level = None,
    hardware_compatibility_level: trt.HardwareCompatibility = None,
    version_compatible: trt.Flag = False,
    refit: trt.Flag = False,
    strip_weights: trt.Flag = False,
    tf32: trt.Flag = False,
    sparsity: trt.Sparsity = None,
    profiling_verbosity: trt.Verbosity = None,
    max_aux_streams: trt.Streams = None,
    compute_capabilities: trt.Capabilities = None,
) -> None:
    """Build an engine folder from a checkpoint or its exported graph, and verify it.

    A checkpoint is exported on the way, which needs torch: its graph is compared with PyTorch, the
    engine with the graph. A network of your own is exported first, with `export --module`.

    The folder holds the runtime's own files, the graph, and manifest.json: what the engine was
    built from, with what, for which machine, the files' hashes and the results of the comparison.

    Given an engine folder instead, it is built again from the graph that it keeps, with the
    options that it was built with and those that are given here. The old engine stays until the
    new one is accepted.

    Options:
        source: Checkpoint, exported ONNX file, or engine folder to rebuild.
        output: Engine folder to create. Default for an engine folder: replace it.
        backend: Runtime to build for; `pconv-deploy doctor` lists them. Default: onnxruntime, or
            the engine's own.
        precision: Precision of the convolutions: fp32, fp16, bf16 or int8. Default: that of the
            graph or engine.
        size: Checkpoint only: fixed height x width, such as 512 or 512x768. Default: any size.
        batch: Checkpoint only: fixed batch size. Default: any.
        level: Checkpoint only: rewrite level, as in `export`. Default: 2.
        without: Checkpoint only: rewrite to skip, as in `export`. Repeatable.
        weights_key: Checkpoint only: which weights to read, where a file of another project holds
            several sets, such as params_ema.
        tensor_level: Checkpoint only: build an engine of float tensors instead of uint8 images.
        keep_graph: Checkpoint only: also write the ONNX file here.
        calibration_photos: Folder of at least 12 representative photos; required for int8.
        calibration_holes: Folder of hole masks for calibration. Default: random holes.
        tune: Measure which equivalent form of the graph is fastest on this machine.
        tune_size: Height x width to tune for. Default: 512.
        tune_batch: Batch size to tune for. Default: 1.
        tune_threads: CPU threads to tune for. Default: the runtime's choice.
        no_windows: Build without windows: small holes take as long as large ones.
        min_shapes: Smallest shape of a profile, batch x height x width. Repeat all three options
            for more profiles. Default: --opt-shapes; without any of the three, a ladder of batches
            and sizes.
        opt_shapes: Shape to optimise a profile for.
        max_shapes: Largest shape of a profile. Default: --opt-shapes.
        workspace: Maximum workspace in MiB. Default: all GPU memory.
        timing_cache_file: Timing cache: read at start, updated at the end; safe to share between
            processes.
        builder_optimization_level: Builder effort: 0 builds fastest, 5 searches longest. Default:
            TensorRT's.
        hardware_compatibility_level: Other GPUs that may open the engine: none, ampere+ or
            same-compute-capability. Default: none.
        version_compatible: Allow later releases of the same major version to open the engine.
        refit: Allow weights to be replaced by `pconv-deploy refit`.
        strip_weights: Build without weights; `pconv-deploy refit` adds them.
        tf32: Allow fp32 convolutions to use TF32 (10-bit mantissa).
        sparsity: Use 2:4 structured sparsity where weights have it: enable or disable (default).
        profiling_verbosity: Layer information in the engine: none, layer-names or detailed.
            Default: detailed.
        max_aux_streams: Maximum auxiliary streams. Default: TensorRT's choice.
        compute_capabilities: tensorrt-rtx only: compute capability to compile for, such as 8.9.
            Repeatable. Default: 8.0, 8.6, 8.9, 12.0 and later.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.commands.build import build_engine as build
        from pconv_deploy.engines.int8.calibration import CalibrationFiles
        from pconv_deploy.engines.options import BuildOptions
        from pconv_deploy.engines.rebuild import kept_engine, recorded_options
        from pconv_deploy.engines.tuning import TuneOptions
        from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskRule

    rule = MaskRule(mask_convention, mask_threshold)
    if not calibration_holes and rule != DEFAULT_RULE:
        raise UsageError("--mask-convention and --mask-threshold go with --calibration-holes")
    if calibration_holes and not calibration_photos:
        raise UsageError("--calibration-holes goes with --calibration-photos")
    calibration = None
    if calibration_photos:
        calibration = CalibrationFiles(
            photos=calibration_photos, holes=calibration_holes, mask_rule=rule
        )
    if not tune and (tune_size or tune_batch or tune_threads):
        raise UsageError("--tune-size, --tune-batch and --tune-threads go with --tune")
    tuning = TuneOptions(size=tune_size, batch=tune_batch, threads=tune_threads)
    exported = _export_options(
        {
            "size": size,
            "batch": batch,
            "level": level,
            "without": split_names(without),
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
    print_engine(manifest, output or (engine.folder if engine else source), exported=was_exported)


def _export_options(given: "dict[str, Any]") -> "ExportOptions | None":
    """Return the options of export that were given; None if none was."""
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    if not chosen:
        return None
    with needs("pconv-deploy[export]", what="exporting a checkpoint"):
        from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
    return ExportOptions(**chosen)
