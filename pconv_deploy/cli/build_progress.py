"""What `build-engine` shows while it works: steps, and a bar where it is known how far one is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from pconv_deploy.cli.console import ERR

_LASTING = "note: "  # what a step must not wipe out
_PARTS = 10  # lines at most for one step, where output is no terminal


@contextmanager
def building() -> Iterator[Callable[[str], None]]:
    """Show the steps of a build: a bar on a terminal, elsewhere a line a step or tenth of one."""
    if not ERR.is_terminal:
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=ERR, transient=True) as shown:
        task = shown.add_task("starting", total=None)

        def show(step: str) -> None:
            if step.startswith(_LASTING):
                shown.console.print(step, markup=False)
                return
            share: float | None = getattr(step, "share", None)
            total = None if share is None else 1.0
            shown.update(task, description=escape(step), total=total, completed=share or 0.0)

        yield show


class _Lines:
    """Prints a step that is partly done only when another tenth of it is."""

    def __init__(self) -> None:
        self._told = -1

    def __call__(self, step: str) -> None:
        share: float | None = getattr(step, "share", None)
        if share is None:
            self._told = -1
        elif int(_PARTS * share) <= self._told:
            return
        else:
            self._told = int(_PARTS * share)
        ERR.print(step, markup=False)
