"""Building an engine folder from an exported graph, and opening one."""

import contextlib
import datetime
import hashlib
import platform
import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pconv_deploy.engines.acceptance import compare_with_graph
from pconv_deploy.engines.base import RunOptions, Session
from pconv_deploy.engines.manifest import (
    MANIFEST,
    BuiltWith,
    Manifest,
    check_machine,
    check_unchanged,
    describe_file,
    read_manifest,
    rebuild,
    write_manifest,
)
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, GraphError, UsageError
from pconv_deploy.files import atomic_folder, writing
from pconv_deploy.onnx_file import read_graph


def build_engine(
    graph: Path | str,
    output: Path | str,
    *,
    backend: str = "onnxruntime",
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _step: None,
) -> Manifest:
    """Build an engine, run it against the graph it came from, and keep it if they agree.

    Args:
        graph: ONNX file of `pconv-deploy export`.
        output: folder to create.
        backend: a name of `registry.BACKENDS`.
        overwrite: replace `output` if it exists.
        progress: is told each step as it begins.

    Raises:
        GraphError: `graph` is not ours, damaged, or was rejected by its export.
        MissingRuntimeError: the backend's runtime is not installed.
        ParityError: the engine does not compute what the graph computes; nothing is left.
        UsageError: unknown backend, or `output` exists and may not be replaced.
        OutputError: `output` could not be written.
    """
    graph, output = Path(graph), Path(output)
    runtime = backend_named(backend)
    installed = runtime.runtime()
    progress("reading the graph")
    exported = read_graph(graph)
    if exported.parity is None or exported.parity.failures():
        raise GraphError(f"{graph} was not accepted when it was exported. Export it again")
    if graph.resolve() == output.resolve() or output.resolve() in graph.resolve().parents:
        raise UsageError(f"{output} holds or is the graph itself; choose another name")
    with atomic_folder(output, overwrite=overwrite, replaceable=_is_engine) as folder:
        progress(f"building for {backend}")
        with writing(output):
            runtime.build(exported.content, exported.contract, folder)
        files = {path.name: describe_file(path) for path in sorted(folder.iterdir())}
        progress("comparing the engine with the graph")
        with contextlib.closing(runtime.open(folder, RunOptions())) as session:
            parity = compare_with_graph(
                session, exported, f"{installed.package} {installed.version}"
            )
        parity.require_success(str(output))
        manifest = Manifest(
            backend=backend,
            built_with=BuiltWith(
                pconv_deploy=version("pconv-deploy"),
                package=installed.package,
                version=installed.version,
                device=runtime.device,
                machine=platform.machine(),
            ),
            contract=exported.contract,
            graph_sha256=hashlib.sha256(exported.content).hexdigest(),
            files=files,
            export_parity=exported.parity,
            engine_parity=parity,
            command=_command(graph, output, backend),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        with writing(output):
            write_manifest(folder, manifest)
    return manifest


def open_engine(folder: Path | str, options: RunOptions | None = None) -> tuple[Manifest, Session]:
    """Load an engine, after its manifest has been checked against files and machine.

    Raises:
        EngineError: no engine, changed, or built with another runtime version.
        MissingRuntimeError: its runtime is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        backend = backend_named(manifest.backend)
    except UsageError as error:
        raise EngineError(f"{folder} cannot be opened: {error}") from error
    check_machine(folder, manifest, backend.runtime())
    check_unchanged(folder, manifest)
    if manifest.engine_parity.failures():
        raise EngineError(f"{folder} was not accepted when it was built.{rebuild(manifest)}")
    return manifest, backend.open(folder, options or RunOptions())


def _is_engine(path: Path) -> bool:
    """An engine and nothing beside it, or an empty folder; all else may be an only copy."""
    if not path.is_dir():
        return False
    try:
        known = read_manifest(path).files.keys() | {MANIFEST}
    except EngineError:
        known = set()
    return {entry.name for entry in path.iterdir()} <= known


def _command(graph: Path, output: Path, backend: str) -> str:
    paths = (str(graph), "-o", str(output))
    words = ("pconv-deploy", "build-engine", *paths, "--backend", backend, "--overwrite")
    return shlex.join(words).encode(errors="replace").decode()  # names need not be Unicode
