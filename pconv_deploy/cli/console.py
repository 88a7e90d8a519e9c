"""What the commands share: consoles, progress and option types."""

import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

from pconv_deploy.cli.plain_help import PlainHelp
from pconv_deploy.errors import NOTE, UsageError

OUT = Console(highlight=False, emoji=False, soft_wrap=True)
# Progress and errors go to stderr: stdout holds results only.
ERR = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

CHECKPOINT_HELP = (
    "Checkpoint: ours (*.safetensors), naoto0804/pytorch-inpainting-with-partial-conv or MMagic's "
    "PConv (*.pth), MathiasGruber/PConv-Keras (*.h5, *.keras)."
)

WEIGHTS_KEY_HELP = (
    "Which weights to read, where a file of another project holds several sets, such as params_ema."
)


class _Warnings(logging.Handler):
    """Prints what our own modules warn of, around a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        ERR.print(f"{record.levelname.lower()}: {record.getMessage()}", markup=False)


_WARNINGS = _Warnings(NOTE)


def show_warnings() -> None:
    """Print the warnings and notes that our modules log."""
    logging.addLevelName(NOTE, "NOTE")
    logging.getLogger("pconv_deploy").addHandler(_WARNINGS)
    logging.getLogger("pconv_deploy.engines.proof").setLevel(NOTE)
    # It tells in a traceback what an error of ours tells in a line.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def print_json(value: object) -> None:
    """Print `value` as JSON in ASCII, which every standard output can encode."""
    import msgspec

    print(json.dumps(json.loads(msgspec.json.encode(value)), indent=2))  # noqa: T201


class Commands(PlainHelp, TyperGroup):
    """A group that suggests commands that begin with what was typed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        typed = args[0]
        meant = [name for name in self.commands if name.startswith(typed) and name != typed]
        if meant and typed not in self.commands:
            suggestions = " or ".join(repr(name) for name in meant)
            raise UsageError(f"no such command {typed!r}. Did you mean {suggestions}?")
        return super().resolve_command(ctx, args)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show which step long work is at: a spinner on a terminal, a line a step elsewhere."""
    if ERR.is_terminal:
        with ERR.status("starting") as status:
            yield lambda step: status.update(escape(step))
    else:
        yield lambda step: ERR.print(step, markup=False)


def progress_bar(doing: str, *, transient: bool = True, disable: bool = False) -> Progress:
    """Show on stderr how many of so many are done, and how long the rest will take.

    Nothing is shown where stderr is no terminal: there rich would write an empty line at the end.
    """
    disable = disable or not ERR.is_terminal
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=ERR, transient=transient, disable=disable)


def one_folder(argument: Path | None, option: Path | None) -> Path:
    """Give the folder to make, which may be an argument or `--output`.

    Raises:
        UsageError: it is named twice, or not at all.
    """
    if argument and option:
        raise UsageError(f"found two folders, {argument} and --output {option}: name one")
    folder = argument or option
    if folder is None:
        raise UsageError("name the folder to write to, as an argument or with --output")
    return folder


def silence_pillow() -> None:
    """Pillow warns of damaged EXIF data and of large images; we judge both ourselves."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def typed_command() -> str:
    """Return what was typed, for a manifest; names need not be Unicode."""
    words = shlex.join(["pconv-deploy", *sys.argv[1:]])
    return words.encode(errors="replace").decode()
