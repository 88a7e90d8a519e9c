"""`pconv-deploy demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.bench import show
from pconv_deploy.cli.console import OUT, steps
from pconv_deploy.errors import needs


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything it makes.")
    ] = Path("demo"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="Yours. Default: a small one that comes with us.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Of the speed comparison.")] = 11,
) -> None:
    """Go the whole way once: export, build, fill holes in photos, measure, report."""
    with needs("pconv-deploy[demo]"):
        from pconv_deploy.demo.run import run_demo

    with steps() as progress:
        result = run_demo(output, own_checkpoint=checkpoint, rounds=rounds, progress=progress)
    OUT.print(f"[bold yellow]{result.caveat}[/bold yellow]")
    show(result.bench)
    OUT.print(f"verified: {result.export_parity.describe()}")
    OUT.print(f"verified: {result.engine_parity.describe()}")
    OUT.print("\nOpen these:")
    for path, what in result.outputs.items():
        OUT.print(f"  [bold]{escape(str(path))}[/bold]  {what}")
