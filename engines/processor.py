"""The kind of processor: which kernels a runtime chooses, and so the last bits of its results."""

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KEYS = ("flags", "Features")  # on x86-64, on Arm
# Instruction sets of which ONNX Runtime and OpenVINO have kernels of their own.
_CHOSEN_BY = frozenset(
    {
        *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"),
        *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
        *("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme"),
    }
)


def machine() -> str:
    """Return the architecture as `uname -m` names it, such as x86_64."""
    return platform.machine()


def instruction_sets() -> tuple[str, ...] | None:
    """Return those that change results, sorted; None where the system does not list them."""
    for key, words in _facts():
        if key in _KEYS:
            return tuple(sorted(_CHOSEN_BY.intersection(words.split())))
    return None


def model_name() -> str:
    """Return the processor's name, for people who compare figures."""
    named = (name for key, name in _facts() if key == "model name")
    return next(named, platform.processor() or machine())


def _facts() -> Iterator[tuple[str, str]]:
    """Yield what Linux says of each core; nothing on other systems."""
    with contextlib.suppress(OSError), _CPUINFO.open(encoding="ascii", errors="replace") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            yield key.strip(), value.strip()
