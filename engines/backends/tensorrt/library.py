"""The TensorRT that is installed: imported when it is needed, its release checked, its log kept."""

import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pconv_deploy.errors import MissingRuntimeError

_LOG = logging.getLogger(__name__)
# Such as "In parse at /_src/parser/x.cpp:12" and "[checkMacros.cpp::catchCudaError::250]".
_PLACES = re.compile(r"\s*\bIn [\w:~]+(?:\(\))? at /_src/[^\s)]*|\[\w+\.\w+::\w+::\d+\]")


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One of NVIDIA's two packages with the same interface.

    backend   our name for it
    module    what is imported
    title     what NVIDIA calls it
    install   the command that brings it
    majors    releases whose interface we use
    oldest    the first release we build with
    """

    backend: str
    module: str
    title: str
    install: str
    majors: tuple[int, ...]
    oldest: tuple[int, int]

    @property
    def releases(self) -> str:
        """For messages: `10.13 or later, or 11`."""
        first, *later = self.majors
        oldest = ".".join(map(str, self.oldest))
        return " or ".join([f"{first} from {oldest} on", *map(str, later)])


TENSORRT = Flavour(
    backend="tensorrt",
    module="tensorrt",
    title="TensorRT",
    install="pip install 'pconv-deploy[tensorrt]'",
    majors=(10, 11),
    oldest=(10, 13),
)
TENSORRT_RTX = Flavour(
    backend="tensorrt-rtx",
    module="tensorrt_rtx",
    title="TensorRT for RTX",
    install="pip install 'pconv-deploy[tensorrt-rtx]'",
    majors=(1,),
    oldest=(1, 2),
)


def load(flavour: Flavour) -> ModuleType:
    """Import it, for building and for running.

    Raises:
        MissingRuntimeError: it is not installed, does not load, or is of another release.
    """
    try:
        module = importlib.import_module(flavour.module)
    except ImportError as error:
        # A module without its libraries ends here as well; the reason is in the exception.
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise MissingRuntimeError(
            f"the {flavour.backend} backend needs {flavour.title}{why}: {flavour.install}"
        ) from error
    found = re.match(r"(\d+)\.(\d+)", str(getattr(module, "__version__", "")))
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    if release[0] not in flavour.majors or release < flavour.oldest:
        raise MissingRuntimeError(
            f"found {flavour.title} {getattr(module, '__version__', 'without a version')}; the "
            f"{flavour.backend} backend needs {flavour.releases}: {flavour.install}"
        )
    return module


def new_log(library: ModuleType) -> Any:
    """A TensorRT logger that hands on to `logging` and keeps what went wrong.

    It must live as long as whatever was made with it. Its `errors` and `warnings` are lists of
    messages, in order.
    """
    severity = library.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Log(library.ILogger):  # type: ignore[misc, name-defined]  # known once imported
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                # Who asked gets it as an exception; once is enough.
                self.errors.append(message)
                _LOG.debug("%s", message)
                return
            if level == logging.WARNING:
                self.warnings.append(message)
            # TensorRT warns of much that needs no action.
            _LOG.log(min(level, logging.INFO), "%s", message)

    return Log()


def format_errors(errors: Sequence[str]) -> str:
    """TensorRT's messages in one line, without the places in its own source, none twice."""
    stripped = (" ".join(_PLACES.sub("", error).split()) for error in errors)
    said = "; ".join(dict.fromkeys(text.rstrip(".") for text in stripped))
    return said or "it gives no reason"
