"""The demo's speed comparison, in a process of its own where nothing ran before it.

What an earlier step did to the allocator and the thread pools changes PyTorch's times by as much
as a third. `python -m pconv_deploy.demo.measuring` takes a request as JSON and prints the result.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.benchmark.contenders import Fill
from pconv_deploy.benchmark.run import BenchOptions, BenchResult, bench
from pconv_deploy.demo.fills import TELEA, telea
from pconv_deploy.errors import EngineError, PConvError
from pconv_deploy.evaluation.methods import fill_hole
from pconv_deploy.processes import run_child


class MeasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured.

    engines     folders; the demo's own first
    checkpoint  of them all
    yardstick   whether Telea takes part
    memory      run each once more alone, for its peak memory
    """

    engines: tuple[str, ...]
    checkpoint: str
    rounds: int
    yardstick: bool = True
    memory: bool = True


def measure(request: MeasureRequest, progress: Callable[[str], None]) -> BenchResult:
    """Measure in a new process, which ends with this one.

    Raises:
        EngineError: an engine failed, or the process was killed.
    """
    read, write = os.pipe()
    command = (sys.executable, "-m", __name__, msgspec.json.encode(request).decode())
    told = threading.Thread(target=_relay, args=(read, progress))
    told.start()
    try:
        done = run_child((*command, str(write)), pass_fds=(write,))
    finally:
        os.close(write)
        told.join()
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip() or "its process was killed"
        ours = done.returncode not in (EngineError.exit_code, *range(-64, 0))
        kind = RuntimeError if ours else EngineError
        raise kind(f"measuring failed: {complaint}")
    return msgspec.json.decode(done.stdout, type=BenchResult)


def _relay(pipe: int, progress: Callable[[str], None]) -> None:
    with os.fdopen(pipe, encoding="utf-8") as steps:
        for step in steps:
            progress(step.rstrip())


def _measured(request: MeasureRequest, told: int) -> BenchResult:
    def tell(done: int, of: int) -> None:
        last = "measuring memory, each alone" if request.memory else "measured"
        step = f"measuring speed, round {done + 1} of {of}" if done < of else last
        os.write(told, f"{step}\n".encode())

    engines = tuple(map(Path, request.engines))
    return bench(
        engines,
        against=Path(request.checkpoint),
        others={TELEA: _yardstick()} if request.yardstick else None,
        photo=sample_photo(),
        options=BenchOptions(rounds=request.rounds, memory=request.memory),
        progress=tell,
    )


def _yardstick() -> Fill:
    method = telea()

    def fill(image: NDArray[np.uint8], hole_mask: NDArray[np.uint8]) -> Any:
        pairs = zip(image, hole_mask, strict=True)
        return [fill_hole(method, one, hole != 0) for one, hole in pairs]

    return fill


if __name__ == "__main__":
    try:
        result = _measured(msgspec.json.decode(sys.argv[1], type=MeasureRequest), int(sys.argv[2]))
    except PConvError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    sys.stdout.buffer.write(msgspec.json.encode(result))
