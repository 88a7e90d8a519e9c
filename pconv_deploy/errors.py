"""Everything a user can be told went wrong, and the exit code that goes with it.

PConvError
├── UsageError            2  options that contradict each other, outputs that would be lost
├── InputError            3  a file or array that cannot be used
│   ├── ImageError
│   │   └── PictureSizeError  more pixels than are accepted
│   ├── HoleMaskError
│   ├── CheckpointError
│   ├── GraphError           an ONNX file
│   └── ModuleError          a network given as Python code
├── ParityError           4  a graph or engine that does not compute what its source computes
├── EngineError           5  an engine that is broken, foreign to this machine, or failed to run
├── MissingRuntimeError   6  a package that is not installed
├── OutputError           7  a result that could not be written
├── BatchIncompleteError  8  a batch in which some files failed; the others are done
└── TrainingError         9  training that failed: its loss is not finite, a worker was killed

Exit code 0 is success, 130 is Ctrl-C, 143 is SIGTERM. On the command line, what the system says of
a file (OSError) ends as InputError does, or as OutputError where the disk is full. Any other
exception is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Level of what our modules log and the command line shows as a note.
NOTE: Final = 25


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A command of ours that mends a failure, as facts; the command line shows it as typed text.

    purpose    what the command does, such as "Rebuild it"
    command    its name, such as "build-engine"
    arguments  files and folders, or placeholders such as "model.onnx"
    options    values by name, such as {"output": "new.engine"}; True is a flag, and an option with
               a tuple is given once for each value
    typed      a whole command as it was once typed, in place of `command` and `arguments`
    """

    purpose: str
    command: str = ""
    arguments: tuple[str | Path, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    typed: str | None = None


class PConvError(Exception):
    """Base of all errors a user can cause; the message is one the user can act on.

    remedy  the command that mends it, if one does
    """

    exit_code = 1

    def __init__(self, message: str, remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(PConvError):
    """The request contradicts itself or would overwrite something."""

    exit_code = 2


class InputError(PConvError):
    """Something given to us cannot be used."""

    exit_code = 3


class ImageError(InputError):
    """An image that cannot be read or filled."""


class PictureSizeError(ImageError):
    """An image of more pixels than are accepted."""


class HoleMaskError(InputError):
    """A hole mask that does not fit its image or says nothing."""


class CheckpointError(InputError):
    """A checkpoint that is not ours, damaged, or of another network."""


class GraphError(InputError):
    """An ONNX file that is not ours or is damaged."""


class ModuleError(InputError):
    """A user's own network that cannot be made, run or followed."""


class ParityError(PConvError):
    """The result differs from its reference by more than the tolerance."""

    exit_code = 4


class EngineError(PConvError):
    """An engine that cannot be used here, or failed while running."""

    exit_code = 5


class MissingRuntimeError(PConvError):
    """A package this operation needs is not installed."""

    exit_code = 6


class OutputError(PConvError):
    """A result could not be written; nothing half-written is left."""

    exit_code = 7


class BatchIncompleteError(PConvError):
    """Some files of a batch failed; what succeeded is kept."""

    exit_code = 8


class TrainingError(PConvError):
    """Training diverged or lost a worker process; the last checkpoint is kept."""

    exit_code = 9


@contextmanager
def needs(extra: str, *, what: str = "this") -> Iterator[None]:
    """Translate a package that is not installed into the command that installs it.

    Args:
        extra: what pip installs, such as "pconv-deploy[export]".
        what: needs the package, for the message.

    Raises:
        MissingRuntimeError: the block imports a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pconv_deploy"):
            raise  # a bug of ours
        raise MissingRuntimeError(
            f"{what} needs {error.name}, which is not installed: pip install '{extra}'"
        ) from error
