"""Building an engine folder from an exported graph, and opening one."""

import contextlib
import datetime
import platform
import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pconv_deploy.engines.acceptance import compare_with_graph
from pconv_deploy.engines.base import RunOptions, Session
from pconv_deploy.engines.manifest import (
    BuiltWith,
    Manifest,
    check_runtime,
    check_unchanged,
    describe_file,
    read_manifest,
    write_manifest,
)
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.files import atomic_folder, sha256_of
from pconv_deploy.onnx_file import read_graph


def build_engine(
    graph: Path,
    output: Path,
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
        GraphError: `graph` is not ours, or damaged.
        MissingRuntimeError: the backend's runtime is not installed.
        ParityError: the engine does not compute what the graph computes; nothing is left.
        UsageError: unknown backend, or `output` exists.
        OutputError: `output` could not be written.
    """
    runtime = backend_named(backend)
    installed = runtime.runtime()
    command = ["pconv-deploy", "build-engine", str(graph), "-o", str(output)]
    command += ["--backend", backend, "--overwrite"]
    progress("reading the graph")
    exported = read_graph(graph)
    with atomic_folder(output, overwrite=overwrite) as folder:
        progress(f"building for {backend}")
        runtime.build(graph, exported.contract, folder)
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
            graph_sha256=sha256_of(graph),
            files=files,
            export_parity=exported.parity,
            engine_parity=parity,
            command=shlex.join(command),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_manifest(folder, manifest)
    return manifest


def open_engine(folder: Path, options: RunOptions | None = None) -> tuple[Manifest, Session]:
    """Load an engine, after its manifest has been checked against files and machine.

    Raises:
        EngineError: no engine, changed, or built with another runtime version.
        MissingRuntimeError: its runtime is not installed.
    """
    manifest = read_manifest(folder)
    try:
        backend = backend_named(manifest.backend)
    except UsageError as error:
        raise EngineError(f"{folder} cannot be opened: {error}") from error
    check_runtime(folder, manifest, backend.runtime())
    check_unchanged(folder, manifest)
    return manifest, backend.open(folder, options or RunOptions())
