"""manifest.json: what an engine folder holds, for whom it was built, and how to rebuild it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from pconv_deploy.contract import NETWORK_FILE, GraphContract, Sha256
from pconv_deploy.engines.base import Built, Gpu, Runtime
from pconv_deploy.engines.golden import Allowance
from pconv_deploy.engines.int8.quantise import Quantisation
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.memory import MemoryUse
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.engines.tuning import Tuning
from pconv_deploy.engines.windows.entry import WindowEntry
from pconv_deploy.errors import EngineError, InputError, Remedy
from pconv_deploy.files import read_json_bytes
from pconv_deploy.parity import ParityReport, Precision

MANIFEST = "manifest.json"
MANIFEST_FORMAT: Final = 3
# Beside the runtime's files: what builds the engine again and proves it elsewhere. Running it needs
# none of them, so they may be deleted.
GRAPH, QUANTISED, GOLDEN = "graph.onnx", "quantised.onnx", "golden.png"
PROOFS = "proofs.json"  # written when an engine is opened; not hashed
# Plain names only: a manifest must not reach outside of its folder.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


class EngineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the runtime's files as it was written; size in bytes."""

    size: int
    sha256: Sha256


class BuiltWith(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What built the engine: elsewhere it has to prove itself, or is refused.

    processor  see `processor.instruction_sets`; None: not known
    """

    pconv_deploy: str
    package: str
    version: str
    device: str
    machine: str
    processor: tuple[str, ...] | None = None
    gpu: Gpu | None = None

    def runtime(self) -> Runtime:
        return Runtime(package=self.package, version=self.version, gpu=self.gpu)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of manifest.json.

    precision      what it computes in; the rest of the arithmetic may be finer
    executed       its convolutions by the precision the runtime said it runs them in
    arrangement    which of the equal forms of the graph it was built from; None: the graph's own
    tuning         the forms that were measured, if they were
    quantisation   of an int8 engine: what it was calibrated on, and which layers are finer
    graph_sha256   of the ONNX file it was built from
    kept           files beside the runtime's own: the graph, and what else builds the engine again
    quantised      of an int8 engine: the file that holds its quantised graph
    golden         how much the fill of its golden case may differ elsewhere; None: it has none
    export_parity  the exported graph against PyTorch, as the export measured it
    engine_parity  this engine against the exported graph, measured when it was built; None: it
                   has not run, and nothing is known
    not_compared   why it has not; None: it has, or an older release did not write down why
    windows        its second entry, which computes only the windows that holes need
    no_windows     why it has none; empty: it has, or an older release did not write down why
    memory         that its runs take; None: not known
    engine         what its backend said of it when it was built
    command        what was typed to build it; empty: a program built it
    created        ISO 8601, UTC
    """

    format: Literal[1, 2, 3] = MANIFEST_FORMAT
    backend: str
    precision: Precision = "fp32"
    executed: Mapping[Precision, int] = {}
    arrangement: Arrangement | None = None
    tuning: Tuning | None = None
    quantisation: Quantisation | None = None
    built_with: BuiltWith
    contract: GraphContract
    graph_sha256: Sha256
    files: Mapping[FileName, EngineFile]
    kept: Mapping[FileName, EngineFile] = {}
    quantised: FileName | None = None
    golden: Allowance | None = None
    export_parity: ParityReport | None
    engine_parity: ParityReport | None
    not_compared: str | None = None
    windows: WindowEntry | None = None
    no_windows: str = ""
    memory: MemoryUse | None = None
    engine: Built = Built()
    command: str
    created: str


def describe(content: bytes) -> EngineFile:
    """Size and hash of a file with this content."""
    return EngineFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`, indented for people."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and validate, without looking at the files it lists.

    Raises:
        EngineError: no engine folder, a damaged manifest, or one of a newer format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise _no_engine(folder)
    try:
        facts = msgspec.json.decode(read_json_bytes(path), type=dict[str, msgspec.Raw])
        found = bytes(facts.get("format", b"1")).decode()
        if found not in ("1", "2", "3"):
            raise EngineError(
                f"{path} has format {found}; this pconv-deploy reads formats 1 to "
                f"{MANIFEST_FORMAT}. Upgrade pconv-deploy, or rebuild the engine with this one",
                _from_its_graph(folder),
            )
        if found != "3" and "plan" in facts:
            plan = msgspec.json.decode(facts.pop("plan"), type=_Plan | None)
            fp32 = bytes(facts.get("precision", b'"fp32"')) == b'"fp32"'
            built = plan.engine(fp32=fp32) if plan else Built()
            facts["engine"] = msgspec.Raw(msgspec.json.encode(built))
        return msgspec.json.decode(msgspec.json.encode(facts), type=Manifest)
    except InputError as error:
        raise EngineError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(
            f"{path} is damaged: {error}. Rebuild the engine", _from_its_graph(folder)
        ) from error


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What formats 1 and 2 had in place of `engine`, for TensorRT engines alone."""

    options: dict[str, Any]
    profiles: tuple[Profile, ...]
    build_seconds: float
    notes: tuple[str, ...] = ()

    def engine(self, *, fp32: bool) -> Built:
        return Built(
            profiles=self.profiles,
            arithmetic="tf32" if fp32 and self.options.get("tf32") else None,
            weights_missing=bool(self.options.get("strip_weights")),
            later_releases=bool(self.options.get("version_compatible")),
            notes=self.notes,
            details={"options": self.options, "build_seconds": self.build_seconds},
        )


def _from_its_graph(folder: Path) -> Remedy | None:
    """What builds an engine whose manifest cannot be read, if its graph is there."""
    if not (folder / GRAPH).is_file():
        return None
    return Remedy(
        purpose="Build it from its graph",
        command="build-engine",
        arguments=(folder / GRAPH,),
        options={"output": "new.engine"},
    )


def _no_engine(path: Path) -> EngineError:
    if (path / NETWORK_FILE).is_file():
        return EngineError(
            f"{path} is a training run, no engine; its checkpoint is {path / NETWORK_FILE}"
        )
    if path.is_file() and (path.parent / MANIFEST).is_file():
        return EngineError(f"{path} is a file of an engine; the engine is the folder {path.parent}")
    what = "does not exist"
    if path.exists():
        missing = "has no manifest.json" if path.is_dir() else "is no folder"
        what = f"{missing}, so it is no engine"
    return EngineError(
        f"{path} {what}",
        Remedy(
            purpose="Build one with",
            command="build-engine",
            arguments=("model.onnx",),
            options={"output": "model.engine"},
        ),
    )


def describe_parity(manifest: Manifest) -> str:
    """What is known of how near an engine is to its graph, in one line for people."""
    if manifest.engine_parity:
        return manifest.engine_parity.describe()
    why = manifest.not_compared or "the machine that built it could not run it"
    return f"NOT compared with its graph when it was built: {why}"


def rebuild(manifest: Manifest, folder: Path, **options: object) -> Remedy:
    """What builds an engine again where it lies now, from the graph in it if there is one."""
    if GRAPH in manifest.kept and (folder / GRAPH).is_file():
        return Remedy(
            purpose="Rebuild it", command="build-engine", arguments=(folder,), options=options
        )
    return rebuild_from_file(manifest, folder, **options)


def rebuild_from_file(manifest: Manifest, folder: Path, **options: object) -> Remedy:
    """What built an engine that keeps no graph: the command that was typed, if there was one.

    Without --overwrite: this may be a copy, and where it was built there may be another engine.
    """
    if manifest.command:
        typed = manifest.command.removesuffix(" --overwrite")
        return Remedy(purpose="Rebuild it", typed=typed, options=options)
    own = {"output": folder, "backend": manifest.backend, "precision": manifest.precision}
    return Remedy(
        purpose="Rebuild it",
        command="build-engine",
        arguments=("model.onnx",),
        options={**own, **options},
    )


def put_weights_in(manifest: Manifest, folder: Path) -> Remedy:
    """What gives an engine the weights that were left out when it was built."""
    return Remedy(
        purpose="Put them in",
        command="refit",
        arguments=(folder, manifest.contract.source.file),
        options={"output": "new.engine"},
    )
