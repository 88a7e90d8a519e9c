"""The kind of processor: which kernels a runtime chooses, and so the last bits of its results."""

import platform
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
    try:
        with _CPUINFO.open(encoding="ascii", errors="replace") as stream:
            for line in stream:
                key, _, words = line.partition(":")
                if key.strip() in _KEYS:
                    return tuple(sorted(_CHOSEN_BY.intersection(words.split())))
    except OSError:
        pass
    return None
