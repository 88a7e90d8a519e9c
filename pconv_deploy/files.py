"""Files written whole or not at all, hashed, and read within bounds."""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pconv_deploy.errors import InputError, OutputError, UsageError

_MAX_JSON_BYTES = 4 << 20


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block succeeds.

    The block writes the file and does nothing else: every OSError in it counts as a failure to
    write.

    Raises:
        OutputError: the folder is not writable, the disk is full, or the like.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it exists and is no regular file")
    # The suffix stays last: image libraries choose their format by it.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some libraries create files for their owner alone; ours get the usual permissions.
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            permissions = partial.stat().st_mode
            yield partial
            partial.chmod(permissions)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, overwrite: bool, replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """Give a temporary folder beside `path`; move it into place when the block succeeds.

    Args:
        path: of the new folder.
        overwrite: replace what is there, if `replaceable` says that it is one of ours.
        replaceable: judges an existing path.

    Raises:
        UsageError: something is there and must not be replaced.
        OutputError: the place is not writable.
    """
    path = path.resolve()
    _refuse_to_replace(path, overwrite, replaceable)
    work = path.with_name(f".{uuid.uuid4().hex}.partial")
    fresh, old = work / "new", work / "old"
    try:
        with writing(path):
            fresh.mkdir(parents=True)
        yield fresh
        _refuse_to_replace(path, overwrite, replaceable)  # another process may have been quicker
        with writing(path):
            _swap(fresh, path, old)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_to_replace(path: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> None:
    if not path.exists():
        return
    if not replaceable(path):
        raise UsageError(
            f"{path} exists and is not ours to replace; remove it or choose another name"
        )
    if not overwrite:
        raise UsageError(f"{path} already exists; pass --overwrite to replace it")


def _swap(fresh: Path, path: Path, old: Path) -> None:
    try:
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException:  # Ctrl-C between the two as well
        if old.exists() and not path.exists():
            old.rename(path)
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate the system's refusals to write into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json_bytes(path: Path) -> bytes:
    """Read a JSON file of at most 4 MiB.

    Raises:
        InputError: missing, unreadable or larger.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _MAX_JSON_BYTES:
        raise InputError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB; it is no manifest")
    return content
