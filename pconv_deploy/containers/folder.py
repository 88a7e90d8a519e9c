"""The folder that a container image is built from.

DIR/Dockerfile, .dockerignore     one image for serving and for batches
DIR/requirements.txt              every package of the image, pinned
DIR/app/                          our own code, as it is installed here
DIR/engines/NAME.engine/          the engine
DIR/kubernetes.yaml               Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget
DIR/kubernetes-batch.yaml         a Job that fills a folder of photos in shards
DIR/sbom.cdx.json, licences/      what is in the image, and under which licences
DIR/README.md                     commands
"""

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from importlib.resources import files
from pathlib import Path
from string import Template

from pconv_deploy.containers.dependencies import OURS, licence_files, needed_distributions
from pconv_deploy.containers.sbom import bill_of_materials
from pconv_deploy.engines.integrity import (
    read_kept,
    refuse_in_engine,
    require_accepted,
    unchanged_files,
)
from pconv_deploy.engines.manifest import MANIFEST, Manifest, put_weights_in, read_manifest
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.files import atomic_folder, writing

_TEMPLATES = ("Dockerfile", "kubernetes.yaml", "kubernetes-batch.yaml", "README.md")
_ROOTS = frozenset(
    (
        *_TEMPLATES,
        ".dockerignore",
        "requirements.txt",
        "app",
        "engines",
        "sbom.cdx.json",
        "licences",
    )
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?")  # what Kubernetes takes
_NVIDIA = "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
_PIXELS = 1_000_000  # of the photo that the memory asked for is estimated for
_LIBRARIES_MIB = 400  # guessed, of server, runtime and Python, without weights


@dataclass(frozen=True)
class Packaged:
    """What was written, and what those who run it must know.

    packages  number of pinned packages
    notes     sentences
    """

    folder: Path
    packages: int
    notes: tuple[str, ...]


def write_package(
    engine: Path | str, output: Path | str, *, name: str | None = None, overwrite: bool = False
) -> Packaged:
    """Write what a container needs to serve an engine, whole or not at all.

    Args:
        engine: folder made by `pconv-deploy build-engine`.
        output: new folder.
        name: of image and engine: small letters, digits and '-'; None takes the engine's.
        overwrite: replace `output` if it was written by this function.

    Raises:
        EngineError: no engine, changed after it was built, not accepted, or without weights.
        MissingRuntimeError: the engine's runtime, or what serves it, is not installed here, so
            that versions are not known.
        UsageError: the name cannot be used, or `output` may not be replaced.
        OutputError: `output` could not be written.
    """
    engine, output = Path(engine), Path(output)
    manifest = read_manifest(engine)
    require_accepted(engine, manifest)
    if manifest.engine.weights_missing:
        raise EngineError(
            f"{engine} was built without its weights", put_weights_in(manifest, engine)
        )
    name = _checked_name(engine.resolve().stem.lower().replace("_", "-") if name is None else name)
    refuse_in_engine(output, engine)
    traits = backend_named(manifest.backend).traits
    packages = needed_distributions(traits.extra)
    own = distribution(OURS)
    facts = _facts(name, engine, manifest, on_gpu=traits.device != "cpu")
    with atomic_folder(output, overwrite=overwrite, replaceable=_is_ours) as fresh, writing(output):
        for template in _TEMPLATES:
            text = (files(__package__) / "templates" / template).read_text(encoding="utf-8")
            (fresh / template).write_text(Template(text).substitute(facts), encoding="utf-8")
        (fresh / ".dockerignore").write_text("kubernetes*.yaml\nREADME.md\n", encoding="ascii")
        pins = [f"{each.metadata['Name']}=={each.version}\n" for each in packages.values()]
        (fresh / "requirements.txt").write_text("".join(pins), encoding="ascii")
        _copy_code(fresh / "app", own)
        copied = fresh / "engines" / f"{name}.engine"
        _copy_engine(engine, copied, manifest)
        engine_files = {path.name for path in copied.iterdir()}
        bom = bill_of_materials(name, manifest, engine_files, (own, *packages.values()))
        (fresh / "sbom.cdx.json").write_text(bom, encoding="utf-8")
        for package in (own, *packages.values()):
            _copy_licences(package, fresh / "licences")
    return Packaged(output, len(packages), tuple(_notes(manifest, packages)))


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"found the name {name!r}; needed small letters, digits and '-', at most 52, the first "
            "and the last no '-'. Choose one with --name"
        )
    return name


def _facts(name: str, engine: Path, manifest: Manifest, *, on_gpu: bool) -> Mapping[str, object]:
    # Runtimes keep weights once more, in a layout of their own.
    weights = 2 * sum(file.size for file in manifest.files.values())
    run = manifest.memory.of(_PIXELS) if manifest.memory else 2**30
    mib = _LIBRARIES_MIB + (weights + run >> 20)
    return {
        "name": name,
        "source": engine.resolve().name,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "runtime": f"{manifest.built_with.package} {manifest.built_with.version}",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "memory": mib,
        "memory_limit": 2 * mib,
        "gpu_limit": '\n              nvidia.com/gpu: "1"' if on_gpu else "",
        "gpu_flag": "--gpus all " if on_gpu else "",
        "gpu_environment": f" \\\n    {_NVIDIA}" if on_gpu else "",
    }


def _copy_code(app: Path, own: Distribution) -> None:
    """Copy our package, and of its metadata what names its version."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(files("pconv_deploy")), app / "pconv_deploy", ignore=ignored)
    facts = app / f"pconv_deploy-{own.version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(own.read_text("METADATA") or "", encoding="utf-8")


def _copy_engine(engine: Path, target: Path, manifest: Manifest) -> None:
    """Copy an engine, each file as it was built."""
    target.mkdir(parents=True)
    shutil.copyfile(engine / MANIFEST, target / MANIFEST)
    files = unchanged_files(engine, manifest)
    for file in manifest.files:
        (target / file).write_bytes(files.read(file))
    for file in manifest.kept:
        if (engine / file).is_file():  # those that only build it again may have been deleted
            (target / file).write_bytes(read_kept(engine, file, manifest))


def _copy_licences(package: Distribution, licences: Path) -> None:
    for name, path in licence_files(package):
        folder = licences / f"{package.metadata['Name']}-{package.version}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _is_ours(folder: Path) -> bool:
    """A folder that we wrote and nobody added to, or an empty one."""
    if not folder.is_dir():
        return False
    found = {path.name for path in folder.iterdir()}
    return not found or (found == _ROOTS and (folder / "app" / "pconv_deploy").is_dir())


def _notes(manifest: Manifest, packages: Mapping[str, Distribution]) -> list[str]:
    notes = ["no image was built: this command needs no container engine"]
    built = manifest.built_with
    here = packages.get(built.package)
    if here and here.version != built.version:
        notes.append(
            f"the engine was built with {built.package} {built.version}, {here.version} is pinned: "
            "each container compares its golden case at its start"
        )
    if manifest.engine_parity is None:
        notes.append("the engine was never compared with its graph")
    return notes
