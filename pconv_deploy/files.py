"""Files written whole or not at all, hashed, and read within bounds."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pconv_deploy.errors import InputError, OutputError, UsageError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_MAX_JSON_BYTES = 4 << 20
_ROOM = "Free space there, or set TMPDIR to a folder on another disk"
_PARTIAL = ".partial"
_PARTIAL_FILE = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(_PARTIAL)}(\..+)?")
_FOLDERS_REMEMBERED = 256
_clear_again: dict[Path, float] = {}  # when, by time.monotonic
_FRESH, _OLD = "new", "old"  # in a workplace: what is being made, and what it replaces


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block succeeds.

    Temporary files that killed processes left in the folder are cleared away; those of processes
    that still write are locked and stay. The block writes the file and does nothing else: every
    OSError in it counts as a failure to write.

    Raises:
        OutputError: the folder is not writable, the disk is full, or the like.
    """
    with writing(path):
        # Unlike Path.resolve, this leaves a loop of links to the system's own error.
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write {path}: it exists and is no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_now_and_then(path.parent)
        partial, descriptor = _make_locked(path, folder=False)
        try:
            # Some libraries create files for their owner alone; ours get the usual permissions.
            permissions = os.fstat(descriptor).st_mode
            yield partial
            partial.chmod(permissions)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            os.close(descriptor)


def _make_locked(place: Path, *, folder: bool) -> tuple[Path, int]:
    """Make a temporary file or folder beside `place`, locked until the descriptor is closed."""
    while True:
        unique = uuid.uuid4().hex
        if folder:
            made = place.with_name(f"{_workplaces(place)}{unique[:16]}{_PARTIAL}")
            made.mkdir(0o700)
            flags = os.O_RDONLY
        else:
            # The suffix stays last: image libraries choose their format by it.
            made = place.with_name(f".{unique}{_PARTIAL}{place.suffix}")
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            descriptor = os.open(made, flags, 0o666)
        except FileNotFoundError:
            if folder:  # another process cleared it
                continue
            raise
        with contextlib.suppress(OSError):  # not every file system can
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if made.exists():
            return made, descriptor
        os.close(descriptor)  # another process cleared it before it was locked


@contextlib.contextmanager
def _unlocked(path: Path, flags: int) -> Iterator[int]:
    """Open and lock a file or folder that no process holds.

    Raises:
        OSError: a process holds it, or it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO must not block us
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _clear_now_and_then(folder: Path) -> None:
    """Clear a folder at most a twentieth of the time: it may hold very many files."""
    started = time.monotonic()
    if started >= _clear_again.get(folder, 0.0):
        clear_temporary_files(folder)
        if len(_clear_again) > _FOLDERS_REMEMBERED:
            _clear_again.clear()
        _clear_again[folder] = started + 20 * (time.monotonic() - started)


def clear_temporary_files(folder: Path) -> None:
    """Remove the temporary files of `atomic_file` that killed processes left in a folder."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if is_temporary(name):
                # Not if it is locked, a folder, or not ours to remove.
                with contextlib.suppress(OSError), _unlocked(folder / name, os.O_WRONLY):
                    (folder / name).unlink()


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, overwrite: bool, replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """Give a temporary folder beside `path`; move it into place when the block succeeds.

    What an earlier process left of its own attempt when it was killed is cleared away.

    Args:
        path: of the new folder.
        overwrite: replace what is there, if `replaceable` says that it is one of ours.
        replaceable: judges an existing path.

    Raises:
        UsageError: something is there and must not be replaced.
        OutputError: the place is not writable.
    """
    path = Path(os.path.realpath(path))
    _clear_abandoned(path)
    with writing(path):
        _refuse_to_replace(path, overwrite, replaceable)
    with parent_made(path), _workplace(path) as work:
        fresh, old = work / _FRESH, work / _OLD
        with writing(path):
            fresh.mkdir()
        yield fresh
        with writing(path):
            # Another process may have been quicker.
            _refuse_to_replace(path, overwrite, replaceable)
            _swap(fresh, path, old)


@contextlib.contextmanager
def parent_made(path: Path) -> Iterator[None]:
    """Make the folder `path` is to lie in; if the block fails, what was made goes again.

    Raises:
        OutputError: it cannot be made.
    """
    with writing(path):
        missing = [folder for folder in path.parents if not folder.exists()]
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # somebody has put something there
                folder.rmdir()
        raise


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a private folder in the system's temporary folder; it is removed at the end.

    Folders that killed processes of this user left behind are removed first.

    Raises:
        OutputError: there is no temporary folder, or its disk becomes full in the block.
    """
    try:
        place = Path(tempfile.gettempdir()).resolve() / f"pconv-deploy-{os.geteuid()}"
    except FileNotFoundError as error:  # with the folders that it tried
        raise OutputError(f"cannot write temporary files: {error.strerror}. {_ROOM}") from error
    _clear_abandoned(place)
    with _workplace(place) as work:
        try:
            yield work
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise OutputError(
                f"cannot write in {place.parent}: {error.strerror}. {_ROOM}"
            ) from error


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path` that is locked for as long as it is in use."""
    with writing(path):
        work, descriptor = _make_locked(path, folder=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(descriptor)


def _workplaces(path: Path) -> str:
    """How the names of all workplaces for `path` begin."""
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"


def _clear_abandoned(path: Path) -> None:
    """Clear workplaces whose lock nobody holds; what was to be replaced there returns."""
    for work in path.parent.glob(f"{_workplaces(path)}*{_PARTIAL}"):
        with contextlib.suppress(OSError), _unlocked(work, os.O_RDONLY) as descriptor:
            if os.fstat(descriptor).st_uid != os.geteuid():
                continue  # the temporary folder is everybody's
            if (work / _OLD).exists() and not path.exists():
                (work / _OLD).rename(path)
            shutil.rmtree(work)


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
        reason = error.strerror or error
        if isinstance(error, FileExistsError) and error.filename:  # when a folder is to be made
            reason = f"{error.filename} is no folder"
        raise OutputError(f"cannot write {path}: {reason}") from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate the system's refusals to read into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that others find at its path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def is_temporary(name: str) -> bool:
    """Whether a name is one that `atomic_file` or `atomic_folder` gives until all is written."""
    return _PARTIAL_FILE.fullmatch(name) is not None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json_bytes(path: Path) -> bytes:
    """Read a JSON file of at most 4 MiB.

    Raises:
        InputError: missing, unreadable or larger.
    """
    with reading(path), path.open("rb") as stream:
        content = stream.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise InputError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB; it is no manifest")
    return content
