"""`pconv-deploy masks`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from pconv_deploy.cli.console import ERR, OUT, needs, parse_size

masks = typer.Typer(
    name="masks", no_args_is_help=True, help="Sets of hole masks of the paper's classes."
)


@masks.callback()
def _group() -> None:
    """Sets of hole masks of the paper's classes."""


@masks.command()
def make(
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Masks of each of the 12 classes.")
    ] = 10,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height x width.")] = "512",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same masks.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes. Default: all cores.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier set.")] = False,
) -> None:
    """Draw irregular holes: 6 classes of area, with and without holes near the border."""
    with needs("pconv-deploy[masks]"):
        from pconv_deploy.hole_masks.mask_set import MaskSetOptions, make_mask_set

    height, width = parse_size(size)
    options = MaskSetOptions(height=height, width=width, per_class=count, seed=seed)
    with Progress(console=ERR, transient=True) as progress:
        task = progress.add_task("drawing")
        made = make_mask_set(
            output,
            options,
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    OUT.print(f"[bold]{escape(str(output))}[/bold]  {len(made.files)} hole masks")
