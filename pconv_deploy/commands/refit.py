"""A checkpoint's weights for a built TensorRT engine: exported likewise, swapped in."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.accepted_graph import options_of, read_accepted
from pconv_deploy.engines.base import Progress, ignore_progress
from pconv_deploy.engines.manifest import Manifest, rebuild
from pconv_deploy.engines.refit import (
    RefitRequest,
    does_not_fit,
    refit_engine,
    require_refittable,
    require_same,
)
from pconv_deploy.engines.same_graph import network_differences, normalisation_differences
from pconv_deploy.errors import EngineError, ParityError, Remedy, needs
from pconv_deploy.files import scratch_folder

if TYPE_CHECKING:
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions


def refit(request: RefitRequest, progress: Progress = ignore_progress) -> Manifest:
    """Swap the weights of an engine that was built with `--refit` or `--strip-weights`.

    A checkpoint is exported as the engine's graph was, and proven as any export is; of an exported
    graph only its weights may differ. The new engine is kept if it computes what the graph
    computes.

    Raises:
        CheckpointError, GraphError: the weights cannot be read, or not in this precision.
        EngineError: they are of another network, or the engine's weights cannot be swapped here.
        MissingRuntimeError: a package is not installed.
        OutputError: the new engine could not be written.
        ParityError: the graph differs from the checkpoint, or the new engine from the graph.
        UsageError: the output exists and may not be replaced, or is being written.
    """
    manifest = require_refittable(request)
    with contextlib.ExitStack() as stack:
        graph = request.weights
        if not request.of_graph:
            folder = stack.enter_context(scratch_folder())
            graph = _exported(request, manifest, folder, progress)
        progress("reading the graph")
        exported = read_accepted(graph)
        require_same(request, manifest, exported)
        return refit_engine(request, manifest, exported, progress)


def _exported(request: RefitRequest, manifest: Manifest, folder: Path, progress: Progress) -> Path:
    """Export the checkpoint as the engine's graph was exported."""
    with needs("pconv-deploy[export]"):
        from pconv_deploy.checkpoints.native import read_header
        from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint

    contract, graph = manifest.contract, folder / "weights.onnx"
    options = export_options(request.engine, manifest)
    source = contract.source
    if source.module or not source.network:
        raise EngineError(
            f"{request.engine} was built from {source.describe_network()}. Export it with its new "
            "weights, and swap them in from there",
            _export(
                contract,
                options,
                module=source.module.factory if source.module else "FACTORY",
                weights=request.weights,
            ),
        )
    header = read_header(request.weights)
    different = network_differences(header.network, source.network)
    different += normalisation_differences(header.normalisation, contract.normalisation)
    if different:
        raise does_not_fit(request, manifest, different)
    try:
        export_checkpoint(request.weights, graph, options, progress=progress)
    except ParityError as error:
        # What it says of a file that it has kept is of no use: that goes with the folder.
        raise ParityError(
            f"{str(error).partition(chr(10))[0]}\n  {request.engine} is as it was",
            replace(_export(contract, options, request.weights), purpose="To look at the graph"),
        ) from None
    return graph


def export_options(engine: Path, manifest: Manifest) -> "ExportOptions":
    """The options with which an engine's graph was exported.

    Raises:
        EngineError: it was by another release, which had other rewrites.
    """
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
    from pconv_deploy.export.rewrites.pipeline import REWRITES, Level, level_of, select_rewrites

    contract = manifest.contract
    names = {rewrite.name for rewrite in REWRITES}
    if unknown := [name for name in contract.rewrites if name not in names]:
        raise EngineError(
            f"{engine} is of a graph that went through {', '.join(unknown)}, which this release "
            f"has not",
            rebuild(manifest, engine),
        )
    level = max(map(level_of, contract.rewrites), default=Level.LITERAL)
    without = tuple(r.name for r in select_rewrites(level) if r.name not in contract.rewrites)
    return ExportOptions(
        kind=contract.kind,
        batch=contract.batch,
        size=contract.size,
        precision=contract.precision,
        level=level,
        without=without,
    )


def _export(
    contract: GraphContract, options: "ExportOptions", *arguments: Path, **source: object
) -> Remedy:
    """What exports other weights as the engine's graph was exported."""
    rewrites = {"level": int(options.level), "without": options.without}
    return Remedy(
        purpose="Export it",
        command="export",
        arguments=arguments,
        options={**source, "output": "new.onnx", **options_of(contract), **rewrites},
    )
