"""What the commands share: consoles, progress, warnings and JSON."""

import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from pconv_deploy.errors import NOTE, UsageError

OUT = Console(highlight=False, emoji=False, soft_wrap=True)
# Progress and errors go to stderr: stdout holds results only.
ERR = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


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
    # It prints a traceback where our own error is one line.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def print_result(path: object, what: str) -> None:
    """Print a file or folder in bold, and a few words about it."""
    OUT.print(f"[bold]{escape(str(path))}[/bold]  {escape(what)}")


def print_json(value: object) -> None:
    """Print `value` as JSON in ASCII, which every standard output can encode."""
    import msgspec

    print(json.dumps(json.loads(msgspec.json.encode(value)), indent=2))  # noqa: T201


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


@contextmanager
def counted(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; the block calls what it gets with how many are done, and of how many."""
    with progress_bar(doing) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def one_folder(argument: Path | None, option: Path | None) -> Path:
    """Return the folder to make, which is an argument or `--output`, but not both.

    Raises:
        UsageError: it is named twice, or not at all.
    """
    if argument and option:
        raise UsageError(f"found two folders, {argument} and --output {option}: name one")
    folder = argument or option
    if folder is None:
        raise UsageError("name the folder to write to, as an argument or with --output")
    return folder


def refuse_both(resume: bool, overwrite: bool) -> None:
    """Refuse `--resume` together with `--overwrite`."""
    if resume and overwrite:
        raise UsageError("--resume keeps what exists and --overwrite replaces it: choose one")


def silence_pillow() -> None:
    """Pillow warns of damaged EXIF data and of large images; we judge both ourselves."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def typed_command() -> str:
    """Return what was typed, for a manifest; names need not be Unicode."""
    words = shlex.join(["pconv-deploy", *sys.argv[1:]])
    return words.encode(errors="replace").decode()
