"""The folder of a training run: settings, checkpoints, history; safe against kill -9 at any time.

    config.json                            the settings, as resolved
    history.jsonl                          the terms of the loss, one line each log_every steps
    tensorboard/                           the same and pictures, for TensorBoard
    checkpoints/step-00005000/             the last few
        network.safetensors                for `pconv-deploy export`
        state.pt                           what else a resume needs
    network.safetensors                    of the last checkpoint

A checkpoint is written beside its place and moved there whole; older ones go only afterwards.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.files import atomic_file, writing
from pconv_deploy.training.config import TrainingConfig, read_run_config

NETWORK, STATE = NETWORK_FILE, "state.pt"
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

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
        """Complete checkpoints by step, oldest first."""
        folder = self.path / "checkpoints"
        found = {
            int(match[1]): place
            for place in (folder.iterdir() if folder.is_dir() else ())
            if (match := _STEP.fullmatch(place.name)) and (place / STATE).is_file()
        }
        return dict(sorted(found.items()))

    def begin(self, config: TrainingConfig, *, resume: bool) -> None:
        """Make the folder of a new run, or tidy up one that goes on; write down the settings.

        Raises:
            UsageError: a new run's folder is in use.
            OutputError: not writable.
        """
        if not resume and self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
            raise UsageError(
                f"{self.path} is in use; go on with its run by --resume, or choose another name"
            )
        self._clear_away_leftovers()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.config_file) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))

    def _clear_away_leftovers(self) -> None:
        """Remove what a killed save or removal left half done."""
        whole = set(self.checkpoints().values())
        for place in (self.path / "checkpoints").glob("*"):
            if place not in whole:
                shutil.rmtree(place, ignore_errors=True)
        for leftover in self.path.glob(".*.partial*"):
            leftover.unlink(missing_ok=True)

    def config_to_resume(self) -> TrainingConfig:
        """Read the settings of the run.

        Raises:
            InputError: this is no run of ours.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path} is no training run: it has no {self.config_file.name}")
        return read_run_config(self.config_file)

    def forget_older_checkpoints(self, keep: int) -> None:
        """Remove all but the last few."""
        for place in list(self.checkpoints().values())[:-keep]:
            shutil.rmtree(place, ignore_errors=True)

    def append_history(self, line: Mapping[str, Any]) -> None:
        """Add one line. Raises OutputError."""
        with writing(self.history_file), self.history_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def forget_history_after(self, step: int) -> None:
        """Drop the lines of steps that will be computed again."""
        if not self.history_file.is_file():
            return
        kept = [line for line in self.history() if line["step"] <= step]
        with atomic_file(self.history_file) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def history(self) -> list[dict[str, Any]]:
        """All lines; one that a kill cut short is left out."""
        lines = []
        if self.history_file.is_file():
            for text in self.history_file.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(text))
                except json.JSONDecodeError:
                    continue
        return lines
