"""Processes of their own: the command as it is started, and what a program imports."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# Words wrap where the terminal ends; messages are compared as one line.
WIDE = {"COLUMNS": "4000", "TERM": "dumb"}


def start(
    *arguments: object, launcher: tuple[str, ...] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start `pconv-deploy ARGUMENTS`, by `python LAUNCHER`; `options` are those of Popen."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "pconv_deploy", *map(str, arguments)],
        env=os.environ | WIDE | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until(
    reached: Callable[[], object], process: subprocess.Popen[str], *, seconds: float = 60
) -> None:
    """Wait for what `process` does; fail if it ends or takes too long before."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def imported_by(program: str) -> set[str]:
    """Names of the packages that a fresh interpreter has imported when `program` is through."""
    report = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def without_privileges() -> None:
    """Let a child process that root starts be refused files as other users are: a `preexec_fn`."""
    drop_from_bounding_set, override, read_search = 24, 1, 2  # prctl(2), capabilities(7)
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)
