"""Trainings in processes of their own, and what becomes of those."""

import subprocess
import time
from pathlib import Path
from typing import Any

from tests.processes import start
from tests.training.conftest import SMALL

ROOT = Path(__file__).parent.parent.parent
ENDLESS = "phases=[{steps=100000, learning_rate=1e-3}]"


def begin(
    run: Path,
    photos: Path,
    *settings: str,
    resume: bool = False,
    launcher: tuple[str, ...] = (),
    **options: Any,
) -> subprocess.Popen[str]:
    """Start `train`, in a group of processes of its own; `options` are those of Popen."""
    chosen = ["--resume"] if resume else ["-c", "mini", "--photos", str(photos)]
    chosen += [f"--set={setting}" for setting in (*(() if resume else SMALL), *settings)]
    options = {"cwd": ROOT, "start_new_session": True} | options
    return start("train", run, *chosen, launcher=launcher, **options)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaint = process.communicate(timeout=120)
    return process.returncode, complaint


def group_of(process: subprocess.Popen[str]) -> list[int]:
    """Numbers of the processes that run in the group of one that `begin` started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(group) == process.pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def has_ended(process: subprocess.Popen[str], seconds: float = 20) -> bool:
    """Whether a process and its workers are gone, some seconds later at most."""
    deadline = time.monotonic() + seconds
    while group_of(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
