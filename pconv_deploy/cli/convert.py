"""`pconv-deploy convert`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import CHECKPOINT_HELP, OUT
from pconv_deploy.cli.options import Overwrite, WeightsKey
from pconv_deploy.errors import needs


def convert(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Checkpoint to write in our format (*.safetensors)."),
    ],
    weights_key: WeightsKey = None,
    overwrite: Overwrite = False,
) -> None:
    """Write another project's checkpoint as ours: nothing in it can run, all facts are inside.

    The network computes what it computed before.
    """
    with needs("pconv-deploy[export]"):
        from pconv_deploy.checkpoints.native import convert_checkpoint

    source = convert_checkpoint(
        checkpoint, output, overwrite=overwrite, weights_key=weights_key
    ).source
    OUT.print(
        f"[bold]{escape(str(output))}[/bold]  "
        + escape(f"from {source.family.describe()}; {source.describe_network()}")
    )
    if source.weights_key:
        OUT.print(escape(f"weights: {source.describe_weights()}"))
