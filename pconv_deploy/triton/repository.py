"""An engine folder of ours, put into a model repository.

REPOSITORY/NAME/config.pbtxt    how it is served
REPOSITORY/NAME/1/model.plan    the engine, or model.onnx
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pconv_deploy.engines.integrity import refuse_in_engine, require_accepted, unchanged_files
from pconv_deploy.engines.manifest import (
    Manifest,
    describe_parity,
    put_weights_in,
    read_manifest,
    rebuild,
)
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, Remedy, UsageError
from pconv_deploy.files import atomic_folder, writing
from pconv_deploy.triton.configuration import (
    CONTRACT_PARAMETER,
    PLATFORMS,
    Platform,
    ServeOptions,
    configuration,
)
from pconv_deploy.triton.protobuf_text import to_text

CONFIGURATION = "config.pbtxt"
_VERSION = "1"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Served:
    """What was written, and what those who serve it must know."""

    folder: Path
    platform: str
    notes: tuple[str, ...]


def write_model(
    engine: Path | str,
    repository: Path | str,
    options: ServeOptions | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Served:
    """Put an engine into a model repository, whole or not at all; other models there stay.

    Args:
        engine: folder made by `pconv-deploy build-engine`.
        repository: folder that Triton is given; made if it is missing.
        options: how it is to be served.
        name: of the model; None takes the engine folder's, without its suffix.
        overwrite: replace the model of this name, if it was written by us.

    Raises:
        EngineError: no engine, changed after it was built, not accepted, or one that Triton cannot
            serve.
        UsageError: options that contradict the engine, or a model that may not be replaced.
        OutputError: the repository could not be written.
    """
    engine, repository = Path(engine), Path(repository)
    manifest = read_manifest(engine)
    platform = _platform(engine, manifest)
    content = unchanged_files(engine, manifest).read(platform.ours)
    require_accepted(engine, manifest)
    refuse_in_engine(repository, engine)
    name = _checked_name(engine.resolve().stem if name is None else name)
    text = to_text(configuration(manifest, name, options or ServeOptions()))
    folder = repository / name
    with atomic_folder(folder, overwrite=overwrite, replaceable=_is_ours) as fresh, writing(folder):
        (fresh / CONFIGURATION).write_text(text, encoding="ascii")
        (fresh / _VERSION).mkdir()
        (fresh / _VERSION / platform.theirs).write_bytes(content)
    return Served(folder, platform.platform, tuple(_notes(manifest)))


def _platform(engine: Path, manifest: Manifest) -> Platform:
    platform = PLATFORMS.get(manifest.backend)
    if platform is None:
        raise EngineError(
            f"{engine} is an engine for {manifest.backend}, which Triton is not given; needed one "
            f"for {', '.join(PLATFORMS)}",
            Remedy(
                purpose="Build one with",
                command="build-engine",
                arguments=("model.onnx",),
                options={"output": "model.engine", "backend": "onnxruntime"},
            ),
        )
    if platform.ours not in manifest.files:
        raise EngineError(f"{engine} has no {platform.ours}", rebuild(manifest, engine))
    if manifest.engine.weights_missing:
        raise EngineError(
            f"{engine} was built without its weights, and Triton cannot add them",
            put_weights_in(manifest, engine),
        )
    if why := _opens_nowhere(manifest):
        raise EngineError(f"{engine} {why}", rebuild(manifest, engine))
    return platform


def _opens_nowhere(manifest: Manifest) -> str | None:
    """A plan is for the kind of GPU it was built on."""
    if backend_named(manifest.backend).traits.portable or manifest.built_with.gpu:
        return None
    return (
        "was built where there was no GPU, and so opens on none; a rebuild must run on the GPU "
        "that is to serve it"
    )


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"found the model name {name!r}; needed letters, digits, '_', '-' and '.', at most "
            "128 of them, the first no '-' or '.'. Choose one with --name"
        )
    return name


def _is_ours(folder: Path) -> bool:
    """A model folder that we wrote and nobody added to, or an empty one."""
    if not folder.is_dir():
        return False
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    known = {f"{_VERSION}/{platform.theirs}" for platform in PLATFORMS.values()}
    if CONFIGURATION not in found or not found <= known | {CONFIGURATION, _VERSION}:
        return not found
    return CONTRACT_PARAMETER.encode() in (folder / CONFIGURATION).read_bytes()


def _notes(manifest: Manifest) -> Iterator[str]:
    built = manifest.built_with
    if manifest.engine_parity is None:
        yield describe_parity(manifest)
    if backend_named(manifest.backend).traits.portable:
        compared = " and compared" if manifest.engine_parity else ""
        yield f"built{compared} with {built.package} {built.version}; Triton brings its own"
    elif manifest.engine.later_releases:
        yield (
            f"built by {built.package} {built.version}; where Triton brings a later one, start it "
            "with --backend-config=tensorrt,version-compatible=true"
        )
    else:
        yield f"opens only where Triton brings {built.runtime().describe()}"
