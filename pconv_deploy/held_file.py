"""Files that are hashed and read while they stay open, so that the hash is of what was read."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pconv_deploy.errors import InputError


@dataclass(frozen=True)
class HeldFile:
    """A regular file that stays open from its hash to its last use.

    path    as it was named, for messages
    stream  the one open file; its position is wherever the last reader left it
    size    in bytes
    """

    path: Path
    stream: BufferedReader
    size: int

    @property
    def place(self) -> Path:
        """A path to the open file, for libraries that take no stream.

        It stays the same file when another one gets the name `path`.
        """
        return Path(f"/proc/self/fd/{self.stream.fileno()}")

    def start(self, count: int = 16) -> bytes:
        """The first bytes; 16 tell all kinds of files apart."""
        self.stream.seek(0)
        return self.stream.read(count)

    def sha256(self) -> str:
        """SHA-256, hexadecimal."""
        self.stream.seek(0)
        return hashlib.file_digest(self.stream, "sha256").hexdigest()


@contextlib.contextmanager
def held_file(path: Path) -> Iterator[HeldFile]:
    """Open a file once for everything that is read of it.

    If another file replaces it meanwhile, the old one is read to its end. If it is written to,
    the end of the block raises: copy what is needed in the block, and use it after the block.

    Raises:
        OSError: it cannot be read.
        InputError: it is a pipe or a device, or was written to meanwhile.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        before = os.fstat(stream.fileno())
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(before.st_mode):
            raise InputError(f"{path} is a pipe or a device; needed a regular file")
        yield HeldFile(path, stream, before.st_size)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path} was changed while it was read; run the command again")
