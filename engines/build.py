"""One build: check the request, write the runtime's files, compare, make the manifest."""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pconv_deploy.engines import processor
from pconv_deploy.engines.acceptance import (
    Acceptance,
    accept,
    count_precisions,
    require_precision,
)
from pconv_deploy.engines.accepted_graph import read_accepted
from pconv_deploy.engines.base import Backend, Built, Progress
from pconv_deploy.engines.golden import GoldenCase
from pconv_deploy.engines.int8.calibration import require_folders
from pconv_deploy.engines.manifest import (
    GOLDEN,
    GRAPH,
    QUANTISED,
    BuiltWith,
    EngineFile,
    Manifest,
    describe,
)
from pconv_deploy.engines.memory import measured_memory
from pconv_deploy.engines.options import BuildOptions, refuse_precision
from pconv_deploy.engines.prepared_graph import PreparedGraph, prepare
from pconv_deploy.engines.rebuild import KeptEngine, refuse_to_lose
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.engines.windows.entry import (
    NOT_ASKED_FOR,
    FirstEntry,
    WindowEntry,
    add_windows,
)
from pconv_deploy.errors import UsageError
from pconv_deploy.files import writing
from pconv_deploy.graphs.file import ExportedGraph
from pconv_deploy.parity import Precision


@dataclass(frozen=True)
class Build:
    """What is to be built, after everything that can be checked before any work.

    prepared  the graph in the form that the runtime gets, where an engine keeps it; None: not yet
    """

    backend: Backend
    options: BuildOptions
    exported: ExportedGraph
    precision: Precision
    prepared: PreparedGraph | None


def check_build(
    source: Path | KeptEngine,
    output: Path,
    options: BuildOptions,
    *,
    overwrite: bool,
    progress: Progress,
) -> Build:
    """Check everything possible before building, and read the graph.

    Args:
        source: an exported graph, or an engine that keeps one.
        output: the engine's folder.
        options: which runtime, and how exact.
        overwrite: `output` may be replaced by anything.
        progress: is told each step as it begins.

    Raises:
        PConvError: as `folder.build_engine`.
    """
    backend = backend_named(options.backend, options.backend_options)
    backend.runtime()  # a missing one before any work
    if options.calibration:
        require_folders(options.calibration)
    progress("reading the graph")
    engine = source if isinstance(source, KeptEngine) else None
    exported = source.graph() if isinstance(source, KeptEngine) else read_accepted(source)
    _refuse_place(source, output)
    precision = options.precision or exported.contract.precision
    if engine and _same(engine.folder, output) and not overwrite:
        refuse_to_lose(engine, backend, precision)
    prepared = engine.prepared(backend, precision, options) if engine else None
    refuse_precision(backend, precision, options, quantised=prepared is not None)
    return Build(backend, options, exported, precision, prepared)


def build(wanted: Build, output: Path, folder: Path, command: str, progress: Progress) -> Manifest:
    """Write everything but the manifest into `folder`, and accept it.

    Args:
        wanted: what `check_build` has passed.
        output: what `folder` will become, for messages.
        folder: an empty one.
        command: what was typed to ask for it.
        progress: is told each step as it begins.

    Raises:
        PConvError: as `folder.build_engine`.
    """
    backend, exported, precision = wanted.backend, wanted.exported, wanted.precision
    tune, photos = wanted.options.tune, wanted.options.calibration
    prepared = wanted.prepared or prepare(backend, exported, precision, tune, photos, progress)
    progress(f"building for {backend.name}, {precision}")
    content = prepared.model.SerializeToString()
    with writing(output):
        built = backend.build(content, exported.contract, precision, folder, progress)
    accepted: Acceptance | None = None
    why = backend.why_not_run()
    if why is None:
        progress("comparing the engine with the graph")
        accepted = _accepted(wanted, prepared, folder, built, str(output))
    memory = None
    if accepted and backend.traits.device == "cpu":
        progress("measuring memory")
        memory = measured_memory(
            lambda: backend.open(files_just_built(folder), precision, RunOptions()),
            exported.contract,
        )
    windows: WindowEntry | str = NOT_ASKED_FOR
    if wanted.options.windows:
        first = FirstEntry(
            backend=backend,
            contract=exported.contract,
            precision=precision,
            model=prepared.model,
            folder=folder,
        )
        with writing(output):
            windows = add_windows(first, accepted.allowed if accepted else None, progress)
    files = {path.name: describe(path.read_bytes()) for path in sorted(folder.iterdir())}
    with writing(output):
        kept = keep(folder, exported, accepted.golden if accepted else None, built)
        quantised = _keep_quantised(folder, content, files, kept) if precision == "int8" else None
    return Manifest(
        backend=backend.name,
        precision=precision,
        executed=count_precisions(accepted.layers) if accepted else {},
        arrangement=prepared.arrangement,
        tuning=prepared.tuning,
        quantisation=prepared.quantisation,
        built_with=built_with(backend),
        contract=exported.contract,
        graph_sha256=hashlib.sha256(exported.content).hexdigest(),
        files=files,
        kept=kept,
        quantised=quantised,
        golden=accepted.allowed if accepted else None,
        export_parity=exported.parity,
        engine_parity=accepted.parity if accepted else None,
        not_compared=why,
        windows=windows if isinstance(windows, WindowEntry) else None,
        no_windows=windows if isinstance(windows, str) else "",
        memory=memory,
        engine=built,
        command=command,
        created=now(),
    )


def _accepted(
    wanted: Build, prepared: PreparedGraph, folder: Path, built: Built, name: str
) -> Acceptance:
    precision, files = wanted.precision, files_just_built(folder)
    accepted = accept(wanted.backend, files, wanted.exported, prepared.model, precision, built)
    accepted.parity.require_success(name)
    require_precision(accepted.layers, precision, name, prepared.model)
    return accepted


def keep(
    folder: Path, exported: ExportedGraph, golden: GoldenCase | None, built: Built
) -> dict[str, EngineFile]:
    """Write the graph and golden case that an engine keeps; return their sizes and hashes.

    An engine without its weights keeps no graph: the graph contains them.
    """
    contents: dict[str, bytes] = {}
    if not built.weights_missing:
        contents[GRAPH] = exported.content
    if golden:
        contents[GOLDEN] = golden.to_png()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: describe(content) for name, content in contents.items()}


def _keep_quantised(
    folder: Path, content: bytes, files: Mapping[str, EngineFile], kept: dict[str, EngineFile]
) -> str | None:
    """Return the name of the file with the quantised graph: the runtime's own, or an added one."""
    if GRAPH not in kept:
        return None  # its weights are left out
    facts = describe(content)
    for name, file in files.items():
        if file == facts:
            return name
    (folder / QUANTISED).write_bytes(content)
    kept[QUANTISED] = facts
    return QUANTISED


def built_with(backend: Backend) -> BuiltWith:
    """Describe this machine and its runtime, for a manifest."""
    installed = backend.runtime()
    return BuiltWith(
        pconv_deploy=version("pconv-deploy"),
        package=installed.package,
        version=installed.version,
        device=backend.traits.device,
        machine=processor.machine(),
        processor=processor.instruction_sets(),
        gpu=installed.gpu,
    )


def now() -> str:
    """Return the current time, for a manifest."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _refuse_place(source: Path | KeptEngine, output: Path) -> None:
    """An engine may take its own place, but lie in no other and hold none."""
    place, output = (source if isinstance(source, Path) else source.folder), output.resolve()
    place = place.resolve()
    if (isinstance(source, Path) and place == output) or output in place.parents:
        raise UsageError(f"{output} holds or is the graph itself; choose another name")
    if isinstance(source, KeptEngine) and place in output.parents:
        raise UsageError(f"{output} lies in the engine {place}; choose another name")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
