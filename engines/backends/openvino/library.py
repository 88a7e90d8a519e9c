"""OpenVINO's library: imported in one place, and one `Core` for the whole process.

A Core gives the thread that loads its CPU plugin a signal stack, and unmaps it when it is
destroyed: even in another thread, or while a later Core has it down as the one to restore. The next
signal with a Python handler then ends the process (SIGSEGV). One that is never destroyed does not.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from pconv_deploy.engines.forks import never_free
from pconv_deploy.engines.telemetry import without_telemetry
from pconv_deploy.errors import MissingRuntimeError


def import_openvino() -> ModuleType:
    """Import it without its telemetry.

    Raises:
        MissingRuntimeError: it is not installed.
    """
    try:
        with without_telemetry():
            import openvino
    except ImportError as error:
        raise MissingRuntimeError(
            "the openvino backend needs OpenVINO: pip install 'pconv-deploy[openvino]'"
        ) from error
    module: ModuleType = openvino
    return module


@cache  # no lock, which a fork could copy locked: two first calls at once make two, both kept
def shared_core() -> Any:
    """Return the process's only `openvino.Core`, which lives until the process has ended.

    Raises:
        MissingRuntimeError: as `import_openvino`.
    """
    core = import_openvino().Core()
    never_free(core)  # the interpreter, too, would on its way out, in forked children as well
    return core


def processor_capabilities() -> tuple[str, frozenset[str]]:
    """Return the processor's name and what OpenVINO says it computes in: "FP32", "BF16" and others.

    Raises:
        MissingRuntimeError: as `import_openvino`.
    """
    core = shared_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core.get_property("CPU", "FULL_DEVICE_NAME"), frozenset(capabilities)


def why_no_bf16() -> str | None:
    """Say why there is no bf16 here, or None if there is."""
    name, capabilities = processor_capabilities()
    if "BF16" in capabilities:
        return None
    # Asked for bf16 all the same, it would emulate it (on AVX512), or compute in single precision
    # and not say so.
    return (
        f"this processor ({name}) has no bf16 instructions (AVX512_BF16 or AMX_BF16), without "
        "which OpenVINO emulates bf16 or computes in single precision"
    )


def compile_for_cpu(model: Any, settings: Mapping[str, Any]) -> Any:
    """Compile a model, an `openvino.Model`.

    In a process forked after OpenVINO had compiled something, OpenVINO would give the model threads
    that were idle at the fork; they do not exist here, and it would wait for ever. Without streams
    it takes none: each call computes in the thread that makes it, one at a time.
    """
    _threads.started = True
    streams = {"NUM_STREAMS": 0} if _threads.lost else {}
    return shared_core().compile_model(model, "CPU", {**settings, **streams})


@dataclass
class _Threads:
    """Whether OpenVINO's threads are `started`, and `lost` in a fork."""

    started: bool = False
    lost: bool = False


_threads = _Threads()


def _begin_in_child() -> None:
    shared_core.cache_clear()  # it belongs to the parent
    _threads.lost = _threads.started


os.register_at_fork(after_in_child=_begin_in_child)
