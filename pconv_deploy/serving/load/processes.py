"""The server and the bare engine as processes, and what the system says of them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pconv_deploy.errors import EngineError
from pconv_deploy.processes import PACKAGE_HOME

_END = 60.0  # seconds that a process has for its end


@dataclass(frozen=True)
class Started:
    """A process, and the seconds from its start until it was ready."""

    process: subprocess.Popen[str]
    ready_after: float

    @property
    def rss_mib(self) -> float:
        """Resident memory, libraries included."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def open_files(self) -> int:
        """File descriptors, sockets included."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@dataclass(frozen=True)
class Served(Started):
    """A server, and its address."""

    address: tuple[str, int]


@dataclass(frozen=True)
class Bare(Started):
    """An engine: see `bare.py`."""

    def call(self, seconds: float | None = None) -> tuple[int, float]:
        """Let it fill once, or for so long; give how many images and the seconds they took.

        Raises:
            EngineError: the process ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(seconds) + "\n")
        self.process.stdin.flush()
        told = json.loads(_next_line(self.process))
        return int(told["images"]), float(told["seconds"])


@contextmanager
def served(engine: Path, options: Sequence[str]) -> Iterator[Served]:
    """Serve an engine as `load` until the block ends.

    Args:
        engine: its folder.
        options: further ones of `pconv-deploy serve`.

    Raises:
        EngineError: the server did not begin; it says why on standard error.
    """
    command = ["-m", "pconv_deploy", "serve", f"load={engine}", "--port", "0", *options]
    with _started(command) as (process, begun):
        while not (found := re.search(r"http://([\d.]+):(\d+)/", _next_line(process))):
            pass
        address = found[1], int(found[2])
        yield Served(process, time.perf_counter() - begun, address)


@contextmanager
def bare(engine: Path, options: dict[str, Any]) -> Iterator[Bare]:
    """Open an engine in a process of its own until the block ends; otherwise as `served`."""
    command = [str(Path(__file__).with_name("bare.py")), str(engine), json.dumps(options)]
    with _started(command) as (process, begun):
        _next_line(process)
        yield Bare(process, time.perf_counter() - begun)


@contextmanager
def _started(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], float]]:
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PACKAGE_HOME},
    )
    with process:
        try:
            yield process, begun
        finally:
            process.terminate()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()


def _next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EngineError(f"a process ended with code {process.wait()}; see what it said above")
    return line
