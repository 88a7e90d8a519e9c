"""Compare an engine's files with the sizes and hashes in its manifest."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pconv_deploy.engines.manifest import (
    MANIFEST,
    PROOFS,
    EngineFile,
    Manifest,
    describe,
    rebuild,
)
from pconv_deploy.engines.sessions import EngineFiles
from pconv_deploy.errors import EngineError, InputError, UsageError
from pconv_deploy.files import is_temporary
from pconv_deploy.held_file import held_file


def check_unchanged(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and hash.

    Raises:
        EngineError: a file is missing or changed.
    """
    files = unchanged_files(folder, manifest)
    for name in manifest.files:
        files.read(name)


def require_accepted(folder: Path, manifest: Manifest) -> None:
    """Refuse an engine that differed from its graph when it was built.

    Raises:
        EngineError: it did.
    """
    if manifest.engine_parity and manifest.engine_parity.failures():
        raise EngineError(f"{folder} was not accepted when it was built", rebuild(manifest, folder))


def refuse_in_engine(place: Path, engine: Path) -> None:
    """Refuse to write into an engine: what is not its own would make it a changed one.

    Args:
        place: where something is to be written.
        engine: that it is made of.

    Raises:
        UsageError: `place` is an engine, or lies in `engine`.
    """
    if (place / MANIFEST).exists() or engine.resolve() in place.resolve().parents:
        raise UsageError(f"{place} is an engine or lies in one; choose another folder")


def unchanged_files(folder: Path, manifest: Manifest) -> EngineFiles:
    """Compare the list of files now, and each file's size and hash when it is read.

    Raises:
        EngineError: a file is missing or changed.
    """
    unexpected = unexpected_files(folder, manifest)
    if unexpected or not manifest.files:
        what = f"holds {', '.join(unexpected)}" if unexpected else "lists no files"
        raise EngineError(f"{folder} {what}, unlike when it was built", rebuild(manifest, folder))
    for name, written in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{folder}: {name} is missing", rebuild(manifest, folder))
        if (size := path.stat().st_size) != written.size:
            raise EngineError(
                f"{path} has {size} bytes, was built with {written.size}", rebuild(manifest, folder)
            )

    def read(name: str) -> bytes:
        return _read(folder, name, _listed(folder, name, manifest), manifest)

    @contextlib.contextmanager
    def held(name: str) -> Iterator[Path]:
        path, written = folder / name, _listed(folder, name, manifest)
        try:
            with held_file(path) as file:
                if (file.size, file.sha256()) != (written.size, written.sha256):
                    raise _changed(path, manifest)
                yield file.place
        except OSError as error:
            raise EngineError(f"cannot read {path}: {error.strerror or error}") from error
        except InputError as error:  # it is being written to
            raise EngineError(str(error)) from error

    return EngineFiles(folder, read, held)


def _listed(folder: Path, name: str, manifest: Manifest) -> EngineFile:
    if name not in manifest.files:
        raise EngineError(
            f"{folder} has no {name}: its manifest does not list it", rebuild(manifest, folder)
        )
    return manifest.files[name]


def unexpected_files(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of files that are neither the engine's own nor written by us beside them."""
    ours = {MANIFEST, PROOFS} | manifest.files.keys() | manifest.kept.keys()
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in ours and not is_temporary(name)]


def read_kept(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Read one of the files that build or prove an engine elsewhere.

    Raises:
        EngineError: it was deleted or changed, or there never was one.
    """
    written = {**manifest.files, **manifest.kept}.get(name)
    if written is None or not (folder / name).is_file():
        why = "was deleted" if written else "was not kept when it was built"
        raise EngineError(f"{folder}: {name} {why}", rebuild(manifest, folder))
    return _read(folder, name, written, manifest)


def _read(folder: Path, name: str, written: EngineFile, manifest: Manifest) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as stream:
            content = stream.read(written.size + 1)
    except (OSError, MemoryError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "it does not fit into memory"
        raise EngineError(f"cannot read {path}: {why}") from error
    if describe(content) != written:
        raise _changed(path, manifest)
    return content


def _changed(path: Path, manifest: Manifest) -> EngineError:
    return EngineError(f"{path} was changed after it was built", rebuild(manifest, path.parent))
