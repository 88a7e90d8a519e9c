"""The folder of a training run: settings, checkpoints, history; safe against kill -9 at any time.

    config.json                            the resolved settings
    history.jsonl                          loss terms, one line every log_every steps
    tensorboard/                           the same and example images, for TensorBoard
    checkpoints/step-00005000/             the last `keep` checkpoints
        network.safetensors                for `pconv-deploy export`
        state.pt                           the rest of the training state, to resume
    network.safetensors                    copy of the last checkpoint's
    .lock                                  while a process trains

A checkpoint is written to a temporary folder and renamed; only then are older ones removed. Files
that depend on the last checkpoint (network.safetensors, the history) are repaired on resume.
"""

import errno
import fcntl
import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.errors import InputError, OutputError, UsageError
from pconv_deploy.files import (
    atomic_file,
    clear_temporary_files,
    is_still,
    is_temporary,
    reading,
    writing,
)
from pconv_deploy.training.config import TrainingConfig, read_run_config

NETWORK, STATE = NETWORK_FILE, "state.pt"
_STEP = re.compile(r"step-(\d{8,})")
_LOCK = ".lock"


@dataclass
class RunFolder:
    """Paths and lock of one run."""

    path: Path
    _lock: int | None = field(default=None, init=False, repr=False)  # a file descriptor

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def history_file(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:08d}"

    def checkpoints(self) -> dict[int, Path]:
        """Return complete checkpoints by step, oldest first. Raises InputError."""
        folder = self.path / "checkpoints"
        with reading(folder):
            found = {
                int(match[1]): place
                for place in (folder.iterdir() if folder.is_dir() else ())
                if (match := _STEP.fullmatch(place.name))
                and all((place / name).is_file() for name in (NETWORK, STATE))
            }
        return dict(sorted(found.items()))

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Lock the folder against other training processes until the block ends.

        Args:
            resume: the folder holds a run; otherwise it is created.

        Raises:
            UsageError: another process trains in it, or the folder of a new run is not empty.
            OutputError: not writable.
        """
        place = self.path / _LOCK
        with writing(self.path):
            if not resume:
                self._require_unused()
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(place, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if not (self._acquired() and self._is_claimed()):
                raise UsageError(
                    f"another process is training in {self.path}: wait until it ends, or stop it"
                )
            try:
                yield
            finally:
                if self._is_claimed():
                    place.unlink()
        finally:
            os.close(self._lock)
            self._lock = None

    def _acquired(self) -> bool:
        assert self._lock is not None
        try:
            # Not flock: worker processes would inherit the lock and keep it if we are killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Other errors: this file system has no locks.
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def _is_claimed(self) -> bool:
        assert self._lock is not None
        return is_still(self.path / _LOCK, self._lock)

    def require_claimed(self) -> None:
        """Check that the folder still exists and is still locked by this process.

        Raises:
            OutputError: it was removed or moved during the run.
        """
        if not self._is_claimed():
            raise OutputError(f"cannot write {self.path}: it was removed or replaced")

    def _require_unused(self) -> None:
        if not self.path.exists():
            return
        only_leftovers = self.path.is_dir() and all(
            place.name == _LOCK or is_temporary(place.name) for place in self.path.iterdir()
        )
        if not only_leftovers:
            raise UsageError(
                f"{self.path} is in use; continue its run with --resume, or choose another name"
            )

    def begin(self, config: TrainingConfig) -> None:
        """Write the settings, and repair what a killed process left incomplete.

        Raises:
            OutputError: not writable.
        """
        self._clear_away_leftovers()
        if checkpoints := self.checkpoints():
            self.publish(max(checkpoints))
        with atomic_file(self.config_file) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))

    def _clear_away_leftovers(self) -> None:
        """Remove incomplete checkpoints and temporary files; keep all other files."""
        clear_temporary_files(self.path)
        for place in (self.path / "checkpoints").glob("*"):
            half = _STEP.fullmatch(place.name) and not (place / STATE).exists()
            if half or is_temporary(place.name):
                shutil.rmtree(place, ignore_errors=True)

    def publish(self, step: int) -> None:
        """Copy a checkpoint's network to the run's folder. Raises OutputError."""
        stored, public = self.checkpoint(step) / NETWORK, self.path / NETWORK
        with writing(public):
            if public.is_file() and filecmp.cmp(stored, public, shallow=False):
                return
        with atomic_file(public) as partial:
            shutil.copyfile(stored, partial)

    def config_to_resume(self) -> TrainingConfig:
        """Read the settings of the run.

        Raises:
            InputError: the folder holds no training run.
        """
        with reading(self.config_file):
            if not self.config_file.is_file():
                raise InputError(
                    f"{self.path} is no training run: it has no {self.config_file.name}"
                )
        return read_run_config(self.config_file)

    def forget_older_checkpoints(self, keep: int) -> None:
        """Remove all but the last `keep` checkpoints."""
        for place in list(self.checkpoints().values())[:-keep]:
            shutil.rmtree(place, ignore_errors=True)

    def append_history(self, line: Mapping[str, Any]) -> None:
        """Add one line. Raises OutputError."""
        with writing(self.history_file), self.history_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def forget_history_after(self, step: int) -> None:
        """Remove the lines of steps that will be computed again."""
        if not self.history_file.is_file():
            return
        kept = [line for line in self.history() if line["step"] <= step]
        with atomic_file(self.history_file) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def history(self) -> list[dict[str, Any]]:
        """Return all complete lines; skip damaged ones. Raises InputError."""
        lines = []
        with reading(self.history_file):
            if self.history_file.is_file():
                text = self.history_file.read_text(encoding="utf-8", errors="replace")
                lines = [_history_line(written) for written in text.splitlines()]
        return [line for line in lines if line is not None]


def _history_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
