"""`pconv-deploy build-engine`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pconv_deploy.cli.build_progress import building
from pconv_deploy.cli.build_report import print_engine
from pconv_deploy.cli.console import typed_command
from pconv_deploy.cli.options import (
    Count,
    MaskOptions,
    Names,
    OptionalOutput,
    OptionalSize,
    Overwrite,
    split_names,
)
from pconv_deploy.cli.tensorrt_options import TensorRtArguments
from pconv_deploy.errors import UsageError, needs
from pconv_deploy.file_types import is_graph

if TYPE_CHECKING:
    from pconv_deploy.engines.int8.calibration import CalibrationFiles
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions


@dataclass(frozen=True)
class ExportOfCheckpoint:
    """Options of `build-engine` for a checkpoint, which is exported on the way.

    Options:
        size: Checkpoint only: fixed height x width, such as 512 or 512x768. Default: any size.
        batch: Checkpoint only: fixed batch size. Default: any.
        level: Checkpoint only: rewrite level, as in `export`. Default: 2.
        without: Checkpoint only: rewrite to skip, as in `export`. Repeatable.
        weights_key: Checkpoint only: which weights to read, where a file of another project holds
            several sets, such as params_ema.
        tensor_level: Checkpoint only: build an engine of float tensors instead of uint8 images.
    """

    size: OptionalSize = None
    batch: Count = None
    level: Annotated[int | None, typer.Option("-O", min=0, max=2)] = None
    without: Names = None
    weights_key: Annotated[str | None, typer.Option(metavar="KEY")] = None
    tensor_level: bool = False

    def options(self) -> "ExportOptions | None":
        """Return the options of export; None if none was given."""
        given: dict[str, Any] = asdict(self) | {"without": split_names(self.without)}
        given["kind"] = "tensor" if given.pop("tensor_level") else None
        chosen = {name: value for name, value in given.items() if value not in (None, ())}
        if not chosen:
            return None
        with needs("pconv-deploy[export]", what="exporting a checkpoint"):
            from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
        return ExportOptions(**chosen)


def build_engine(
    source: Path,
    output: OptionalOutput = None,
    *,
    backend: str | None = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None, typer.Option(metavar="PRECISION")
    ] = None,
    exporting: ExportOfCheckpoint,
    keep_graph: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    calibration_photos: Path | None = None,
    calibration_holes: Path | None = None,
    mask_options: MaskOptions,
    tune: bool = False,
    tune_size: OptionalSize = None,
    tune_batch: Count = None,
    tune_threads: Count = None,
    no_windows: bool = False,
    overwrite: Overwrite = False,
    tensorrt: TensorRtArguments,
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
        keep_graph: Checkpoint only: also write the ONNX file here.
        calibration_photos: Folder of at least 12 representative photos; required for int8.
        calibration_holes: Folder of hole masks for calibration. Default: random holes.
        tune: Measure which equivalent form of the graph is fastest on this machine.
        tune_size: Height x width to tune for. Default: 512.
        tune_batch: Batch size to tune for. Default: 1.
        tune_threads: CPU threads to tune for. Default: the runtime's choice.
        no_windows: Build without windows: small holes take as long as large ones.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.commands.build import build_engine as build
        from pconv_deploy.engines.options import BuildOptions
        from pconv_deploy.engines.rebuild import kept_engine, recorded_options
        from pconv_deploy.engines.tuning import TuneOptions

    calibration = _calibration(calibration_photos, calibration_holes, mask_options)
    if not tune and (tune_size or tune_batch or tune_threads):
        raise UsageError("--tune-size, --tune-batch and --tune-threads go with --tune")
    tuning = TuneOptions(size=tune_size, batch=tune_batch, threads=tune_threads)
    engine = kept_engine(source)
    recorded = recorded_options(engine.manifest, backend) if engine else BuildOptions()
    options = replace(
        recorded,
        backend=backend or recorded.backend,
        precision=precision or recorded.precision,
        calibration=calibration,
        tune=tuning if tune else recorded.tune,
        windows=recorded.windows and not no_windows,
        backend_options=tensorrt.options(recorded.backend_options),
    )
    with building() as progress:
        manifest = build(
            source,
            output,
            options,
            export=exporting.options(),
            keep_graph=keep_graph,
            overwrite=overwrite,
            command=typed_command(),
            progress=progress,
        )
    was_exported = engine is None and not is_graph(source)
    print_engine(manifest, output or (engine.folder if engine else source), exported=was_exported)


def _calibration(
    photos: Path | None, holes: Path | None, mask_options: MaskOptions
) -> "CalibrationFiles | None":
    from pconv_deploy.engines.int8.calibration import CalibrationFiles
    from pconv_deploy.images.hole_rule import DEFAULT_RULE

    rule = mask_options.rule()
    if not holes and rule != DEFAULT_RULE:
        raise UsageError("--mask-convention and --mask-threshold go with --calibration-holes")
    if holes and not photos:
        raise UsageError("--calibration-holes goes with --calibration-photos")
    return CalibrationFiles(photos=photos, holes=holes, mask_rule=rule) if photos else None
