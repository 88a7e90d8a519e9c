"""What TensorRT's builder has measured, kept in a file that several processes may share.

The file is TensorRT's own, as trtexec writes it. It is read at the beginning of a build, and at
its end what was learnt is merged with what others have written meanwhile. A file that TensorRT
cannot read is put aside, as it may be anything, and made anew; one of another kind of GPU is
somebody's work, and stays as it is.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

from pconv_deploy.engines.locks import locked
from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.files import atomic_file, writing

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 1 << 30


def require_file_name(path: Path) -> None:
    """Refuse what can be no timing cache, whether or not one is used here.

    Raises:
        UsageError: `path` is no regular file, or its folder does not exist.
    """
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise UsageError(
            f"found {path} as the timing cache; needed a file, or the name of one in a folder "
            "that exists"
        )


class TimingCache:
    """The timing cache of one build.

    Args:
        config: of the build; is given the cache.
        log: of the builder; it tells what TensorRT thinks of the file.
        path: of the file; it need not exist.

    Raises:
        UsageError: `path` is no regular file, or its folder does not exist.
        InputError: it cannot be read.
    """

    def __init__(self, config: Any, log: Any, path: Path) -> None:
        self._config, self._log, self._path = config, log, path
        require_file_name(path)
        cache, damaged = self._read()
        if damaged:
            _LOG.warning(
                "%s is damaged, or no timing cache of this release; a new one will take its place, "
                "and the old one will be kept beside it",
                path,
            )
        self._foreign = cache is not None and not config.set_timing_cache(cache, False)
        if self._foreign:
            self._warn_of_another_gpu()
        if cache is None or self._foreign:
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """Add what the build has measured to the file, unless it is of another kind of GPU.

        Raises:
            OutputError: it cannot be written.
        """
        if self._foreign:
            return
        learnt = self._config.get_timing_cache()
        with writing(self._path), locked(self._path.resolve(), wait=True):
            written, damaged = self._read()  # others may have been at it
            if written is not None and not learnt.combine(written, False):
                self._warn_of_another_gpu()
                return
            if damaged:
                self._put_aside()
            content = bytes(learnt.serialize())
            with atomic_file(self._path) as partial:
                partial.write_bytes(content)

    def _put_aside(self) -> None:
        names = (f"{self._path.name}.damaged{n or ''}" for n in itertools.count())
        paths = (self._path.with_name(name) for name in names)
        aside = next(path for path in paths if not path.exists())
        self._path.rename(aside)
        _LOG.warning("what was in %s is in %s now", self._path, aside)

    def _read(self) -> tuple[Any, bool]:
        """The cache in the file or None, and whether there is something else in it."""
        try:
            size = self._path.stat().st_size
            content = self._path.read_bytes() if size <= _MAX_BYTES else b""
        except FileNotFoundError:
            return None, False
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror or error}") from error
        # TensorRT tells of a cache it cannot use in its log alone, and hands out an empty one.
        log = self._log
        warned, failed = len(log.warnings), len(log.errors)
        cache = self._config.create_timing_cache(content) if content else None
        if cache is not None and (len(log.warnings), len(log.errors)) == (warned, failed):
            return cache, False
        del log.errors[failed:]  # they are of this file, not of the build
        return None, size > 0

    def _warn_of_another_gpu(self) -> None:
        _LOG.warning(
            "the timing cache %s is of another kind of GPU and stays as it is; name another file "
            "with --timing-cache-file for this one",
            self._path,
        )
