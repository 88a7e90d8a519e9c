"""Files written whole or not at all, hashed, and read within bounds."""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pconv_deploy.errors import InputError, OutputError, UsageError

_MAX_JSON_BYTES = 4 << 20
# Some libraries create files for their owner alone; ours get the user's usual permissions.
# Read once, when no other thread runs: reading it means setting it.
os.umask(_UMASK := os.umask(0))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block succeeds.

    Raises:
        OutputError: the folder is not writable, the disk is full, or the like.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: image libraries choose their format by it.
        partial = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
        try:
            yield partial
            partial.chmod(0o666 & ~_UMASK)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `path`; move it into place when the block succeeds.

    Raises:
        UsageError: `path` exists and `overwrite` is false.
        OutputError: as in `atomic_file`.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} already exists; pass --overwrite to replace it")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{uuid.uuid4().hex}.partial")
        fresh, old = work / "new", work / "old"
        try:
            fresh.mkdir(parents=True)
            yield fresh
            if path.exists():
                path.rename(old)
            try:
                fresh.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
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
