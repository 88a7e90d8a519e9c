"""`pconv-deploy convert`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import OUT, print_result
from pconv_deploy.cli.options import CHECKPOINT_HELP, Output, Overwrite, WeightsKey
from pconv_deploy.errors import needs


def convert(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)],
    output: Output,
    weights_key: WeightsKey = None,
    overwrite: Overwrite = False,
) -> None:
    """Write another project's checkpoint as ours: nothing in it can run, all facts are inside.

    The network computes what it computed before.

    Options:
        output: Checkpoint to write in our format (*.safetensors).
    """
    with needs("pconv-deploy[export]"):
        from pconv_deploy.checkpoints.native import convert_checkpoint

    source = convert_checkpoint(
        checkpoint, output, overwrite=overwrite, weights_key=weights_key
    ).source
    print_result(output, f"from {source.family.describe()}; {source.describe_network()}")
    if source.weights_key:
        OUT.print(escape(f"weights: {source.describe_weights()}"))
