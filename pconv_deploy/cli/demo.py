"""`pconv-deploy demo`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.bench import show
from pconv_deploy.cli.console import OUT, steps
from pconv_deploy.errors import needs

if TYPE_CHECKING:
    from pconv_deploy.demo.results import DemoResult


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("demo"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint to use. Default: the bundled small network.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds of the speed comparison.")] = 11,
) -> None:
    """Export, build an engine, fill holes in photos, measure and report, with a bundled network."""
    with needs("pconv-deploy[demo]"):
        from pconv_deploy.demo.run import DemoOptions, run_demo

    options = DemoOptions(own_checkpoint=checkpoint, rounds=rounds)
    with steps() as progress:
        result = run_demo(output, options, progress=progress)
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
