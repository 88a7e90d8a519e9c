"""`pconv-deploy demo`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.markup import escape

from pconv_deploy.cli.bench import show
from pconv_deploy.cli.console import OUT, steps
from pconv_deploy.cli.options import Output, between
from pconv_deploy.errors import needs

if TYPE_CHECKING:
    from pconv_deploy.demo.results import DemoResult


def demo(
    output: Output = Path("demo"),
    checkpoint: Path | None = None,
    rounds: Annotated[int, between(3)] = 11,
) -> None:
    """Export, build an engine, fill holes in photos, measure and report, with a bundled network.

    Options:
        output: Output folder.
        checkpoint: Checkpoint to use. Default: the bundled small network.
        rounds: Timed rounds of the speed comparison.
    """
    with needs("pconv-deploy[demo]"):
        from pconv_deploy.demo.run import run_demo

    with steps() as progress:
        result = run_demo(output, checkpoint, rounds=rounds, progress=progress)
    show_result(result)


def show_result(result: "DemoResult") -> None:
    """Print what was measured, and where to look next."""
    OUT.print(f"[bold yellow]{escape(result.caveat)}[/bold yellow]")
    show(result.bench)
    for name, why in result.left_out.items():
        OUT.print(f"without {name}: {why}", markup=False)
    for parity in (result.exactness, *result.parities):
        OUT.print(f"verified: {parity.describe()}", markup=False)
    OUT.print("\nOpen these:")
    for path, what in result.outputs.items():
        OUT.print(f"  [bold]{escape(str(path))}[/bold]  {what}")
    OUT.print("\nPaint holes of your own in a browser:")
    OUT.print(f"  pconv-deploy serve {shlex.quote(str(result.engine))}", style="bold", markup=False)
