"""OpenVINO's library: imported in one place, and one `Core` for the whole process.

A Core gives the thread that loads its CPU plugin a signal stack, and unmaps it when it is
destroyed: even in another thread, or while a later Core has it down as the one to restore. The next
signal with a Python handler then ends the process (SIGSEGV). One that is never destroyed does not.
"""

import os
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


def processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and what OpenVINO says it computes in: "FP32", "BF16" and others.

    Raises:
        MissingRuntimeError: as `import_openvino`.
    """
    core = shared_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core.get_property("CPU", "FULL_DEVICE_NAME"), frozenset(capabilities)


os.register_at_fork(after_in_child=shared_core.cache_clear)  # its threads are the parent's
