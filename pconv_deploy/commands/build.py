"""Build an engine from a checkpoint, an exported graph or another engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_deploy.engines import folder
from pconv_deploy.engines.int8.calibration import require_folders
from pconv_deploy.engines.manifest import MANIFEST, Manifest
from pconv_deploy.engines.options import BuildOptions, refuse_precision
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import InputError, UsageError, needs
from pconv_deploy.file_types import is_graph
from pconv_deploy.files import scratch_folder

if TYPE_CHECKING:
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions


def build_engine(  # noqa: PLR0913  what people call, with one keyword for each wish
    source: Path | str,
    output: Path | str | None = None,
    options: BuildOptions | None = None,
    *,
    export: "ExportOptions | None" = None,
    keep_graph: Path | str | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda _step: None,
) -> Manifest:
    """Build an engine folder, compared with what it was made from before it gets its name.

    A checkpoint is exported on the way: the graph is compared with PyTorch, the engine with the
    graph, and the manifest has both.

    Args:
        source: checkpoint, ONNX file of `export_checkpoint`, or engine folder to build again.
        output: folder to create; None takes the place of the engine.
        options: which runtime, and how exact; None: the usual, or those of the engine.
        export: of a checkpoint, how it is exported; None: as usual.
        keep_graph: of a checkpoint, ONNX file to write as well. It stays if the engine fails.
        overwrite: replace `output` and `keep_graph` if they exist.
        command: what was typed to ask for it, for the manifest; empty: a program asked.
        progress: is told each step as it begins.

    Raises:
        UsageError: options that `source` does not take; and as `folder.build_engine`.
        CheckpointError: a checkpoint that cannot be used.
        ParityError: the graph differs from the checkpoint, or the engine from the graph.
        MissingRuntimeError: no runtime of that backend, or for a checkpoint no torch.
        PConvError: as `export_checkpoint` and `folder.build_engine`.
    """
    source = Path(source)
    if source.is_dir() or source.name == MANIFEST or is_graph(source):
        if export is not None or keep_graph is not None:
            raise UsageError(
                f"{source} is no checkpoint, so nothing is exported: leave out the options of "
                "export, and --keep-graph"
            )
        return folder.build_engine(
            source, output, options, overwrite=overwrite, command=command, progress=progress
        )
    if not source.exists():
        raise InputError(f"{source} does not exist")
    if output is None:
        raise UsageError(
            f"found no name for the engine of {source}; needed -o, such as -o {source.stem}.engine"
        )
    output, kept = Path(output), Path(keep_graph) if keep_graph else None
    options = options or BuildOptions()
    _check_before_work(source, [output, *([kept] if kept else [])], options, overwrite=overwrite)
    with scratch_folder() as scratch:
        graph = kept or scratch / "model.onnx"
        _export_graph(source, graph, output, export, overwrite=overwrite, progress=progress)
        return folder.build_engine(
            graph, output, options, overwrite=overwrite, command=command, progress=progress
        )


def _check_before_work(
    checkpoint: Path, outputs: Sequence[Path], options: BuildOptions, *, overwrite: bool
) -> None:
    """Check everything possible before the export, which takes minutes."""
    backend = backend_named(options.backend, options.backend_options)
    backend.runtime()
    if options.calibration:
        require_folders(options.calibration)
    refuse_precision(backend, options.precision or "fp32", options, quantised=False)
    with needs("pconv-deploy[export]", what=f"exporting {checkpoint}"):
        from pconv_deploy.export.checkpoint_to_onnx import refuse_existing
    if len({path.resolve() for path in (checkpoint, *outputs)}) <= len(outputs):
        raise UsageError("the checkpoint, the engine and the graph need names of their own")
    for path in outputs:
        refuse_existing(path, overwrite)


def _export_graph(
    checkpoint: Path,
    graph: Path,
    engine: Path,
    export: "ExportOptions | None",
    *,
    overwrite: bool,
    progress: Callable[[str], None],
) -> None:
    """Write a checkpoint's graph; if it differs from the checkpoint, it is kept beside `engine`."""
    from pconv_deploy.export import checkpoint_to_onnx as exporter

    export = export or exporter.ExportOptions()
    if export.precision != "fp32":
        raise UsageError(
            f"found an export in {export.precision}; say the engine's precision instead, for which "
            "the graph is exported in fp32"
        )
    target = exporter.load_target(checkpoint, export, progress)
    model, result = exporter.verified_graph(
        target, engine, export, explain=False, progress=progress
    )
    for note in result.notes:
        progress(f"note: {note}")
    exporter.write_graph(model, graph, overwrite=overwrite)
