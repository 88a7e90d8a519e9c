"""Other weights for a built engine, without building it anew: checked, swapped, accepted."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pconv_deploy.engines.acceptance import accept, count_precisions, require_precision
from pconv_deploy.engines.base import BackendWithOptions, Progress, RefittableBackend
from pconv_deploy.engines.build import built_with, keep, now
from pconv_deploy.engines.folder import alone, is_engine
from pconv_deploy.engines.integrity import check_unchanged, unchanged_files
from pconv_deploy.engines.manifest import (
    Manifest,
    describe,
    read_manifest,
    rebuild,
    write_manifest,
)
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.proof import check_machine
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.same_graph import differences
from pconv_deploy.engines.sessions import files_just_built
from pconv_deploy.errors import EngineError, Remedy, UsageError
from pconv_deploy.file_types import is_graph
from pconv_deploy.files import atomic_folder, writing
from pconv_deploy.graphs.file import ExportedGraph


@dataclass(frozen=True, kw_only=True)
class RefitRequest:
    """Whose weights are to be swapped.

    engine     stays as it is, unless it is `output`
    weights    a checkpoint, or an exported graph
    output     folder to create
    overwrite  replace `output` if it exists
    command    what was typed to ask for it; empty: a program asked
    """

    engine: Path
    weights: Path
    output: Path
    overwrite: bool = False
    command: str = ""

    @property
    def of_graph(self) -> bool:
        return is_graph(self.weights)

    @property
    def in_place(self) -> bool:
        return self.engine.resolve() == self.output.resolve()


def require_refittable(request: RefitRequest) -> Manifest:
    """Check everything possible before any slow step; return the manifest.

    Raises:
        EngineError: no engine, changed, of another backend or another machine, or its weights
            cannot be swapped.
        MissingRuntimeError: TensorRT is not installed.
        UsageError: `output` exists and may not be replaced.
    """
    engine, output = request.engine, request.output
    manifest = read_manifest(engine)
    backend = _backend(request, manifest)
    if manifest.precision == "int8":
        raise EngineError(
            f"{engine} computes in int8, in ranges that were measured with its own weights; other "
            "weights need their own",
            _build_anew(request, manifest, calibration_photos="PHOTOS"),
        )
    if why := backend.why_not_refit(manifest.engine):
        raise EngineError(
            f"{engine} {why}",
            replace(rebuild(manifest, engine, refit=True), purpose="Build one whose weights can"),
        )
    if output.exists() and not request.overwrite:
        raise UsageError(
            f"{output} already exists; pass --overwrite to replace it, or -o for a new engine"
        )
    backend.runtime()
    if why := backend.why_not_run():
        raise EngineError(f"weights are swapped on the GPU that will run the engine, and {why}")
    whole = backend.with_weights(manifest.engine)
    check_machine(engine, msgspec.structs.replace(manifest, engine=whole), backend)
    check_unchanged(engine, manifest)
    return manifest


def require_same(request: RefitRequest, manifest: Manifest, exported: ExportedGraph) -> None:
    """Refuse a graph that differs in more than its weights, or in them where that is not allowed.

    Raises:
        EngineError: the message says in what.
    """
    if different := differences(exported.contract, manifest.contract):
        raise does_not_fit(request, manifest, different)
    engine = request.engine
    own, found = manifest.contract.source, exported.contract.source
    only_own = _backend(request, manifest).only_own_weights(manifest.engine)
    if only_own and found.sha256 != own.sha256:
        raise EngineError(
            f"{engine} was built with --strip-weights and without --refit: it takes no "
            f"weights but those of {own.file} (sha256 {own.sha256[:12]}), found {found.file} "
            f"(sha256 {found.sha256[:12]})",
            replace(rebuild(manifest, engine, refit=True), purpose="Build one that takes any"),
        )


def does_not_fit(request: RefitRequest, manifest: Manifest, different: list[str]) -> EngineError:
    """The error about weights of another network."""
    return EngineError(
        f"{request.weights} does not fit {request.engine}: {'; '.join(different)}",
        _build_anew(request, manifest),
    )


def refit_engine(
    request: RefitRequest, manifest: Manifest, exported: ExportedGraph, progress: Progress
) -> Manifest:
    """Write the engine with a graph's weights, once it computes what the graph computes.

    Args:
        request: what `require_refittable` has passed.
        manifest: of the engine.
        exported: what `require_same` has passed.
        progress: is told each step as it begins.

    Raises:
        EngineError: the runtime cannot swap them.
        ParityError: the result does not compute what the graph computes; nothing is left of it.
        CheckpointError: a weight is too large for the engine's precision.
        UsageError: another process is writing `output`, or it has appeared meanwhile.
        OutputError: `output` could not be written.
    """
    backend = _backend(request, manifest)
    output, precision = request.output, manifest.precision
    with (
        alone(output),
        atomic_folder(output, overwrite=request.overwrite, replaceable=is_engine) as folder,
    ):
        before = unchanged_files(request.engine, manifest)
        model = prepare_again(backend, exported, precision, manifest.arrangement)
        progress("swapping the weights")
        changed, built = backend.refit(before, model.SerializeToString(), manifest.engine)
        with writing(output):
            for name in manifest.files:
                content = changed[name] if name in changed else before.read(name)
                (folder / name).write_bytes(content)
        files = files_just_built(folder)
        progress("comparing the engine with the graph")
        # A witness would be another engine, which says nothing of weights that were swapped.
        accepted = accept(backend, files, exported, None, precision, built)
        accepted.parity.require_success(str(output))
        require_precision(accepted.layers, precision, str(output))
        with writing(output):
            kept = keep(folder, exported, accepted.golden, built)
        result = msgspec.structs.replace(
            manifest,
            executed=count_precisions(accepted.layers),
            built_with=built_with(backend),
            contract=exported.contract,
            graph_sha256=hashlib.sha256(exported.content).hexdigest(),
            files={name: describe(files.read(name)) for name in manifest.files},
            export_parity=exported.parity,
            kept=kept,
            golden=accepted.allowed,
            engine_parity=accepted.parity,
            not_compared=None,
            engine=built,
            command=request.command,
            created=now(),
        )
        with writing(output):
            write_manifest(folder, result)
    return result


def _backend(request: RefitRequest, manifest: Manifest) -> RefittableBackend:
    engine = request.engine
    try:
        backend = backend_named(manifest.backend)
    except UsageError as error:
        raise EngineError(f"the weights of {engine} cannot be swapped: {error}") from error
    if not isinstance(backend, RefittableBackend):
        raise EngineError(
            f"{engine} is an engine for {manifest.backend}, whose weights cannot be swapped",
            _build_anew(request, manifest),
        )
    try:
        options = backend.recorded_options(backend.with_weights(manifest.engine))
    except EngineError as error:
        raise EngineError(f"the weights of {engine} cannot be swapped: {error}") from error
    whole = backend.with_options(options)
    assert isinstance(whole, RefittableBackend)
    return whole


def _build_anew(request: RefitRequest, manifest: Manifest, **more: object) -> Remedy:
    """What builds an engine of other weights where they cannot be swapped."""
    options: dict[str, object] = {
        "output": "new.engine",
        "backend": manifest.backend,
        "precision": manifest.precision,
    }
    backend = backend_named(manifest.backend)
    if isinstance(backend, BackendWithOptions):
        options |= backend.changed_options(backend.recorded_options(manifest.engine))
    return Remedy(
        purpose="Build one with these weights",
        command="build-engine",
        arguments=(request.weights,),
        options={**options, **more},
    )
