"""Build an engine again from the graph that its folder keeps."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pconv_deploy.engines.accepted_graph import read_accepted
from pconv_deploy.engines.base import Backend, BackendWithOptions
from pconv_deploy.engines.integrity import read_kept
from pconv_deploy.engines.manifest import (
    GRAPH,
    MANIFEST,
    Manifest,
    read_manifest,
    rebuild_from_file,
)
from pconv_deploy.engines.options import BuildOptions
from pconv_deploy.engines.prepared_graph import PreparedGraph
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.tuning import TuneOptions
from pconv_deploy.engines.windows.entry import NOT_ASKED_FOR
from pconv_deploy.errors import EngineError, Remedy, UsageError
from pconv_deploy.graphs.file import ExportedGraph
from pconv_deploy.parity import Precision


@dataclass(frozen=True)
class KeptEngine:
    """An engine folder, with what it keeps to be built again."""

    folder: Path
    manifest: Manifest

    def graph(self) -> ExportedGraph:
        """Read the exported graph that it was built from.

        Raises:
            EngineError: it keeps none, or another one.
            GraphError, MissingRuntimeError: as `read_accepted`.
        """
        path, manifest = self.folder / GRAPH, self.manifest
        if GRAPH not in manifest.kept or not path.is_file():
            how = "was deleted" if GRAPH in manifest.kept else "was not kept when it was built"
            raise EngineError(f"{path} {how}", self._from_a_file())
        exported = read_accepted(path)
        if hashlib.sha256(exported.content).hexdigest() != manifest.graph_sha256:
            raise EngineError(f"{path} was changed after it was built", self._from_a_file())
        return exported

    def prepared(
        self, backend: Backend, precision: Precision, options: BuildOptions
    ) -> PreparedGraph | None:
        """Read the quantised graph, where it is what was asked for; None: prepare anew.

        Raises:
            EngineError: it was deleted or changed.
            MissingRuntimeError: the onnx package is not installed.
        """
        manifest = self.manifest
        other = precision != "int8" or backend.name != manifest.backend
        if other or options.calibration or options.tune or manifest.quantised is None:
            return None
        import onnx

        try:
            content = read_kept(self.folder, manifest.quantised, manifest)
        except EngineError as error:
            raise EngineError(
                f"{error}. It holds the calibration: give photos anew, with --calibration-photos"
            ) from None
        model = onnx.load_from_string(content)
        return PreparedGraph(model, manifest.arrangement, manifest.tuning, manifest.quantisation)

    def _from_a_file(self) -> Remedy:
        remedy = rebuild_from_file(self.manifest, self.folder)
        return replace(remedy, purpose="Build it from its graph's file")


def kept_engine(source: Path) -> KeptEngine | None:
    """Return the engine that a path names; None for the file of a graph.

    Raises:
        EngineError: a folder that is no engine.
    """
    if source.name == MANIFEST:
        source = source.parent
    return KeptEngine(source, read_manifest(source)) if source.is_dir() else None


def recorded_options(manifest: Manifest, backend: str | None = None) -> BuildOptions:
    """Return the options that build an engine again as it was built.

    Args:
        manifest: of the engine.
        backend: None is its own; another one does not take its own options.
    """
    tuning = manifest.tuning
    tune = None
    # A quantised graph is kept in the form that was found to be fastest.
    if tuning and not manifest.quantised:
        size = (tuning.height, tuning.width)
        tune = TuneOptions(size=size, batch=tuning.batch, threads=tuning.threads)
    backend = backend or manifest.backend
    return BuildOptions(
        backend=backend,
        precision=manifest.precision,
        tune=tune,
        windows=manifest.no_windows != NOT_ASKED_FOR,
        backend_options=_own_options(manifest) if backend == manifest.backend else None,
    )


def refuse_to_lose(engine: KeptEngine, backend: Backend, precision: Precision) -> None:
    """Refuse to put another kind of engine in an engine's place, unasked.

    Raises:
        UsageError: they differ in backend or precision.
    """
    found, manifest = (backend.name, precision), engine.manifest
    if found != (manifest.backend, manifest.precision):
        raise UsageError(
            f"{engine.folder} is a {manifest.precision} engine for {manifest.backend}; needed -o "
            f"for one of {precision} for {backend.name} beside it, or --overwrite to replace it"
        )


def _own_options(manifest: Manifest) -> msgspec.Struct | None:
    """Return the options of the engine's own backend, as far as they hold on this machine."""
    backend = backend_named(manifest.backend)
    if not isinstance(backend, BackendWithOptions):
        return None
    return backend.recorded_options(manifest.engine)
