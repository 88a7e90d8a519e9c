"""Building an engine folder from an exported graph, and opening one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pconv_deploy.engines.base import Backend, BackendWithOptions, Progress, ignore_progress
from pconv_deploy.engines.build import build, check_build
from pconv_deploy.engines.forks import safe_to_fork
from pconv_deploy.engines.integrity import require_accepted, unchanged_files, unexpected_files
from pconv_deploy.engines.locks import locked
from pconv_deploy.engines.manifest import (
    Manifest,
    read_manifest,
    write_manifest,
)
from pconv_deploy.engines.options import BuildOptions
from pconv_deploy.engines.proof import check_machine, prove, required_proof
from pconv_deploy.engines.rebuild import kept_engine, recorded_options
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import EngineFiles, RunOptions, Session
from pconv_deploy.engines.windows.entry import open_both
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.files import atomic_folder, parent_made, writing

__all__ = ["BuildOptions", "alone", "build_engine", "is_engine", "open_engine"]


def build_engine(
    graph: Path | str,
    output: Path | str | None = None,
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = ignore_progress,
) -> Manifest:
    """Build an engine, run it against the graph it came from, and keep it if they agree.

    Where the machine can build but not run it, it is kept without: its manifest says so. An engine
    that cannot be used any more is built again from the graph that it keeps; it stays as it is
    until the new one is accepted.

    Args:
        graph: ONNX file of `pconv-deploy export`, or the folder of an engine.
        output: folder to create; None takes the place of the engine.
        options: which runtime, and how exact; None: the usual, or those of the engine.
        overwrite: replace `output` if it exists and is not that engine.
        command: what was typed to ask for it, for its manifest; empty: a program asked.
        progress: is told each step as it begins.

    Raises:
        GraphError: `graph` is not ours, damaged, or was rejected by its export.
        InputError: no photos, or too few, to calibrate on.
        MissingRuntimeError: the backend's runtime is not installed.
        ParityError: the engine does not compute what the graph computes; nothing is left.
        UsageError: unknown backend, a precision it does not have here, int8 without photos,
            `output` exists and may not be replaced, or another process is building it.
        EngineError: the runtime cannot build it, or an engine keeps no graph.
        OutputError: `output` could not be written.
    """
    graph = Path(graph)
    engine = kept_engine(graph)
    options = options or (recorded_options(engine.manifest) if engine else BuildOptions())
    if output is None:
        if engine is None:
            raise UsageError(
                f"found no name for the engine of {graph}; needed -o, such as -o x.engine"
            )
        output = engine.folder
    output = Path(output)
    wanted = check_build(engine or graph, output, options, overwrite=overwrite, progress=progress)
    in_place = engine is not None and engine.folder.resolve() == output.resolve()
    with (
        alone(output),
        atomic_folder(output, overwrite=overwrite or in_place, replaceable=is_engine) as folder,
    ):
        if engine and in_place:  # without its graph, only what was typed first builds it again
            command = engine.manifest.command or command
        manifest = build(wanted, output, folder, command, progress)
        with writing(output):
            write_manifest(folder, manifest)
    return manifest


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep two processes from building one engine at once."""
    output = output.resolve()
    with parent_made(output), contextlib.ExitStack() as stack:
        with writing(output):
            stack.enter_context(locked(output, wait=False))
        yield


def open_engine(folder: Path | str, options: RunOptions | None = None) -> tuple[Manifest, Session]:
    """Load an engine, after its manifest has been checked against files and machine.

    Under another release of its runtime, or on another kind of processor, it fills its golden
    case first, once. A process that is forked afterwards may use the session, too: its first call
    loads the engine anew.

    Raises:
        EngineError: no engine, changed, or not for this machine: what built it is not what is
            here, and it computes something else here, or has no golden case to prove itself by.
        MissingRuntimeError: its runtime is not installed.
    """
    folder, options = Path(folder), options or RunOptions()
    manifest, backend, files = _checked(folder)
    needed = required_proof(folder, manifest, backend)

    def open_here() -> Session:
        session = _open_entries(manifest, backend, files, options)
        with contextlib.ExitStack() as stack:
            stack.callback(session.close)
            if needed:
                prove(folder, manifest, session, needed)
            stack.pop_all()
        return session

    there = folder.absolute()  # a child may have another working directory
    return manifest, safe_to_fork(
        open_here,
        lambda: _open_in_child(there, manifest, backend, options),
    )


def _open_in_child(
    folder: Path, loaded: Manifest, backend: Backend, options: RunOptions
) -> Session:
    if not backend.traits.opens_after_fork:
        raise EngineError(
            f"{folder} was loaded before this process was forked, and GPUs cannot be used by the "
            "forks of a process that has used them; load it in each worker, and not before "
            "(docs/embedding.md)"
        )
    manifest, _, files = _checked(folder)
    if (manifest.files, manifest.contract) != (loaded.files, loaded.contract):
        raise EngineError(
            f"{folder} was replaced after the parent of this process had loaded it; "
            "load it in each worker, or start the program again"
        )
    return _open_entries(manifest, backend, files, options)


def _open_entries(
    manifest: Manifest, backend: Backend, files: EngineFiles, options: RunOptions
) -> Session:
    def open_files(files: EngineFiles) -> Session:
        return backend.open(files, manifest.precision, options)

    windows = manifest.windows
    return open_both(windows, files, open_files) if windows else open_files(files)


def _checked(folder: Path) -> tuple[Manifest, Backend, EngineFiles]:
    manifest = read_manifest(folder)
    try:
        backend = backend_named(manifest.backend)
        if isinstance(backend, BackendWithOptions):
            # Where it runs may depend on the options that it was built with.
            backend = backend.with_options(backend.recorded_options(manifest.engine))
    except (EngineError, UsageError) as error:
        raise EngineError(f"{folder} cannot be opened: {error}") from error
    check_machine(folder, manifest, backend)
    if why := backend.why_not(manifest.precision):
        raise EngineError(f"{folder} is a {manifest.precision} engine, but {why}")
    files = unchanged_files(folder, manifest)
    if why := backend.why_not_run():
        raise EngineError(f"{folder} cannot run on this machine: {why}")
    require_accepted(folder, manifest)
    return manifest, backend, files


def is_engine(path: Path) -> bool:
    """An engine and nothing beside it, or an empty folder; all else may be an only copy."""
    if not path.is_dir():
        return False
    try:
        manifest = read_manifest(path)
    except EngineError:
        return not any(path.iterdir())
    return not unexpected_files(path, manifest)
