"""Building an engine folder from an exported graph, and opening one."""

import contextlib
import datetime
import hashlib
import platform
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pconv_deploy.engines.acceptance import accept, require_precision
from pconv_deploy.engines.accepted_graph import read_accepted
from pconv_deploy.engines.base import (
    Backend,
    EngineFiles,
    Progress,
    RunOptions,
    Session,
    files_just_built,
    silent,
)
from pconv_deploy.engines.calibration import MIN_PHOTOS, CalibrationFiles, require_folders
from pconv_deploy.engines.forks import safe_to_fork
from pconv_deploy.engines.locks import locked
from pconv_deploy.engines.manifest import (
    MANIFEST,
    BuiltWith,
    Manifest,
    check_machine,
    describe,
    read_manifest,
    rebuild,
    unchanged_files,
    write_manifest,
)
from pconv_deploy.engines.preparation import prepare
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.tensorrt.options import TensorRtOptions, words
from pconv_deploy.engines.tuning import TuneOptions
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.files import atomic_folder, parent_made, writing
from pconv_deploy.onnx_file import ExportedGraph
from pconv_deploy.parity import PRECISIONS, ParityReport, Precision

_NOTHING_FOR_TF32: tuple[Precision, ...] = ("fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What kind of engine to build.

    backend      a name of `registry.BACKENDS`
    precision    of the convolutions; None takes the graph's own
    calibration  photos and holes for int8, which needs them
    tune         measure which form of the graph is fastest here; None takes the backend's usual
    tensorrt     how TensorRT is to build it; None takes its usual options

    Raises:
        UsageError: one profile is there twice.
    """

    backend: str = "onnxruntime"
    precision: Precision | None = None
    calibration: CalibrationFiles | None = None
    tune: TuneOptions | None = None
    tensorrt: TensorRtOptions | None = None

    def __post_init__(self) -> None:
        # Asked of the request, not of what manifests hold: such an engine is no damaged one.
        profiles = self.tensorrt.profiles if self.tensorrt else ()
        for number, profile in enumerate(profiles):
            if profile in profiles[:number]:
                raise UsageError(f"the profile {profile.describe()} is there twice")


def build_engine(
    graph: Path | str,
    output: Path | str,
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Build an engine, run it against the graph it came from, and keep it if they agree.

    Where the machine can build but not run it, it is kept without: its manifest says so.

    Args:
        graph: ONNX file of `pconv-deploy export`.
        output: folder to create.
        options: which runtime, and how exact.
        overwrite: replace `output` if it exists.
        progress: is told each step as it begins.

    Raises:
        GraphError: `graph` is not ours, damaged, or was rejected by its export.
        InputError: no photos, or too few, to calibrate on.
        MissingRuntimeError: the backend's runtime is not installed.
        ParityError: the engine does not compute what the graph computes; nothing is left.
        UsageError: unknown backend, a precision it does not have here, int8 without photos,
            `output` exists and may not be replaced, or another process is building it.
        EngineError: the runtime cannot build it.
        OutputError: `output` could not be written.
    """
    graph, output, options = Path(graph), Path(output), options or BuildOptions()
    backend = backend_named(options.backend, options.tensorrt)
    exported, precision = _read_what_can_be_built(graph, output, backend, options, progress)
    with (
        alone(output),
        atomic_folder(output, overwrite=overwrite, replaceable=is_engine) as folder,
    ):
        prepared = prepare(
            backend, exported, precision, options.tune, options.calibration, progress
        )
        progress(f"building for {backend.name}, {precision}")
        content = prepared.model.SerializeToString()
        with writing(output):
            plan = backend.build(content, exported.contract, precision, folder, progress)
        files = files_just_built(folder)
        parity: ParityReport | None = None
        executed: Mapping[Precision, int] = {}
        why = backend.why_not_run()
        if why is None:
            progress("comparing the engine with the graph")
            parity, executed = accept(backend, files, exported, prepared.model, precision, plan)
            parity.require_success(str(output))
            layers = plan.layers if plan else None
            require_precision(executed, precision, str(output), layers)
        manifest = Manifest(
            backend=backend.name,
            precision=precision,
            executed=executed,
            arrangement=prepared.arrangement,
            tuning=prepared.tuning,
            quantisation=prepared.quantisation,
            built_with=built_with(backend),
            contract=exported.contract,
            graph_sha256=hashlib.sha256(exported.content).hexdigest(),
            files={p.name: describe(p.read_bytes()) for p in sorted(folder.iterdir())},
            export_parity=exported.parity,
            engine_parity=parity,
            not_compared=why,
            plan=plan,
            command=_command(graph, output, options),
            created=now(),
        )
        with writing(output):
            write_manifest(folder, manifest)
    return manifest


def _read_what_can_be_built(
    graph: Path, output: Path, backend: Backend, options: BuildOptions, progress: Progress
) -> tuple[ExportedGraph, Precision]:
    """The graph and the engine's precision; what cannot come to a good end is refused at once."""
    backend.runtime()  # a missing one before any work
    if options.calibration:
        require_folders(options.calibration)
    progress("reading the graph")
    exported = read_accepted(graph)
    if graph.resolve() == output.resolve() or output.resolve() in graph.resolve().parents:
        raise UsageError(f"{output} holds or is the graph itself; choose another name")
    precision = options.precision or exported.contract.precision
    _refuse_precision(backend, precision, options)
    return exported, precision


def built_with(backend: Backend) -> BuiltWith:
    """What a manifest says of this machine."""
    installed = backend.runtime()
    return BuiltWith(
        pconv_deploy=version("pconv-deploy"),
        package=installed.package,
        version=installed.version,
        device=backend.device,
        machine=platform.machine(),
        gpu=installed.gpu,
    )


def now() -> str:
    """The time of a manifest."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep two processes from building one engine at once."""
    output = output.resolve()
    with parent_made(output), contextlib.ExitStack() as stack:
        with writing(output):
            stack.enter_context(locked(output, wait=False))
        yield


def _refuse_precision(backend: Backend, precision: Precision, options: BuildOptions) -> None:
    if why := backend.why_not(precision):
        possible = [p for p in PRECISIONS if backend.why_not(p) is None]
        raise UsageError(
            f"the {backend.name} backend cannot build {precision} engines here: {why}. "
            f"It can build: {', '.join(possible)}"
        )
    if options.tensorrt and options.tensorrt.tf32 and precision in _NOTHING_FOR_TF32:
        raise UsageError(
            f"found --tf32 for an engine that computes in {precision}; needed --precision fp32, "
            "whose convolutions it lets round, or int8 for the layers that stay in fp32"
        )
    if precision == "int8" and options.calibration is None:
        raise UsageError(
            "int8 engines are calibrated on photos like those they will fill; "
            f"give a folder of at least {MIN_PHOTOS} with --calibration-photos"
        )
    if precision != "int8" and options.calibration is not None:
        raise UsageError(f"only int8 engines are calibrated; this one computes in {precision}")


def open_engine(folder: Path | str, options: RunOptions | None = None) -> tuple[Manifest, Session]:
    """Load an engine, after its manifest has been checked against files and machine.

    A process that is forked afterwards may use the session, too: its first call loads the engine
    anew.

    Raises:
        EngineError: no engine, changed, or built with another runtime version.
        MissingRuntimeError: its runtime is not installed.
    """
    folder, options = Path(folder), options or RunOptions()
    manifest, backend, files = _checked(folder)
    there = folder.absolute()  # a child may have another working directory
    return manifest, safe_to_fork(
        lambda: backend.open(files, manifest.precision, options),
        lambda: _open_in_child(there, manifest, backend, options),
    )


def _open_in_child(
    folder: Path, loaded: Manifest, backend: Backend, options: RunOptions
) -> Session:
    if not backend.opens_after_fork:
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
    return backend.open(files, manifest.precision, options)


def _checked(folder: Path) -> tuple[Manifest, Backend, EngineFiles]:
    manifest = read_manifest(folder)
    try:
        # As it was built: where it runs depends on the options.
        options_then = manifest.plan.options if manifest.plan else None
        backend = backend_named(manifest.backend, options_then)
    except UsageError as error:
        raise EngineError(f"{folder} cannot be opened: {error}") from error
    check_machine(folder, manifest, backend)
    if why := backend.why_not(manifest.precision):
        raise EngineError(f"{folder} is a {manifest.precision} engine, but {why}")
    files = unchanged_files(folder, manifest)
    if why := backend.why_not_run():
        raise EngineError(f"{folder} cannot run on this machine: {why}")
    if manifest.engine_parity and manifest.engine_parity.failures():
        raise EngineError(
            f"{folder} was not accepted when it was built.{rebuild(manifest, folder)}"
        )
    return manifest, backend, files


def is_engine(path: Path) -> bool:
    """An engine and nothing beside it, or an empty folder; all else may be an only copy."""
    if not path.is_dir():
        return False
    try:
        known = read_manifest(path).files.keys() | {MANIFEST}
    except EngineError:
        known = set()
    return {entry.name for entry in path.iterdir()} <= known


def _command(graph: Path, output: Path, options: BuildOptions) -> str:
    command = ["pconv-deploy", "build-engine", str(graph), "-o", str(output)]
    command += ["--backend", options.backend]
    if options.precision:
        command += ["--precision", options.precision]
    if tune := options.tune:
        command += ["--tune"]
        command += ["--tune-size", "x".join(map(str, tune.size))] if tune.size else []
        command += ["--tune-batch", str(tune.batch)] if tune.batch else []
        command += ["--tune-threads", str(tune.threads)] if tune.threads else []
    if options.calibration:
        command += ["--calibration-photos", str(options.calibration.photos)]
        if options.calibration.holes:
            command += ["--calibration-holes", str(options.calibration.holes)]
    command += words(options.tensorrt) if options.tensorrt else []
    # Names need not be Unicode.
    return shlex.join([*command, "--overwrite"]).encode(errors="replace").decode()
