"""How much memory a run of an engine takes, measured when it is built."""

import contextlib
import ctypes
import gc
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from pconv_deploy.contract import HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.engines.sessions import Session
from pconv_deploy.errors import EngineError

_SIDES = 256, 768  # pixels, of the images that are filled, at least


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes that a run takes beside the engine: fixed, and for each pixel of the padded image."""

    fixed: int
    per_pixel: float

    def of(self, pixels: int) -> int:
        """Estimate the bytes of a run on so many pixels."""
        return self.fixed + math.ceil(self.per_pixel * pixels)


def measured_memory(
    open_engine: Callable[[], Session], contract: GraphContract
) -> MemoryUse | None:
    """Fill images of two sizes; None where that fails, or for float tensors.

    open_engine: opens it anew, as runtimes keep what a run took.
    """
    status = Path("/proc/self/clear_refs")
    if contract.kind != "deployment" or not status.exists():
        return None
    sizes = [contract.size or (side + -side % contract.size_multiple,) * 2 for side in _SIDES]
    try:
        taken = [_taken(open_engine, (contract.batch or 1, *size)) for size in dict.fromkeys(sizes)]
    except (OSError, EngineError):  # not allowed here, or too little of it
        return None
    pixels = [math.prod(size) for size in sizes]
    if len(taken) == 1:
        return MemoryUse(fixed=taken[0], per_pixel=0)
    per_pixel = max(0.0, (taken[1] - taken[0]) / (pixels[1] - pixels[0]))
    return MemoryUse(
        fixed=max(0, round(taken[0] - per_pixel * pixels[0])), per_pixel=round(per_pixel, 1)
    )


def _taken(open_engine: Callable[[], Session], shape: tuple[int, int, int]) -> int:
    """Return the bytes by which this process grows at most while an image is filled."""
    give_back_freed_memory()
    hole_mask = np.zeros(shape, np.uint8)
    hole_mask[:, 1:] = 255
    inputs = {IMAGE: np.zeros((*shape, 3), np.uint8), HOLE_MASK: hole_mask}
    with contextlib.closing(open_engine()) as session:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the old peak
        before = _kib("VmRSS")
        session.run(inputs)
        return max(0, _kib("VmHWM") - before) << 10


def give_back_freed_memory() -> None:
    """Return to the system what the C library keeps of memory that was freed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _kib(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0])


def free_memory() -> int | None:
    """Return the bytes that this process may still take; None where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(int(text.partition("MemAvailable:")[2].split()[0]) << 10)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no limit is the word max
        limit, used = (int((group / f"memory.{n}").read_text("ascii")) for n in ("max", "current"))
        found.append(max(0, limit - used))
    return min(found, default=None)
