"""Runtimes that report their use over the network, kept from it."""

import contextlib
import sys
from collections.abc import Iterator

_REPORTER = "openvino_telemetry"


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """OpenVINO and NNCF, imported in this block, report nothing.

    They send an event as they are imported, unless the package that sends it is absent; so for
    the time of the block it is.
    """
    present = _REPORTER in sys.modules
    before = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # what import itself looks for
    try:
        yield
    finally:
        if present and before is not None:
            sys.modules[_REPORTER] = before
        else:
            del sys.modules[_REPORTER]
