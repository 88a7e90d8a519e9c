"""`pconv-deploy export`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import CHECKPOINT_HELP, OUT, needs, parse_size, steps


def export(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    size: Annotated[
        str | None,
        typer.Option(
            help="Fix height x width, such as 512 or 512x768. Default: any size.", metavar="HxW"
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Fix the batch. Default: any batch.")
    ] = None,
    tensor_level: Annotated[
        bool,
        typer.Option(
            "--tensor-level", help="Float NCHW in and out, instead of uint8 images composited."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the ONNX file if it exists.")
    ] = False,
) -> None:
    """Export a checkpoint to ONNX, verified against PyTorch.

    Whose checkpoint it is follows from its tensors; what their project computes differently is
    folded into the weights, and the graph takes nonzero = fill all the same.

    The graph takes `image` (uint8 NHWC) and `hole_mask` (uint8 NHW, nonzero = fill) and returns
    `filled` (uint8 NHWC) with every known pixel untouched. Before the file gets its name it is
    compared with the literal network in double precision, inside and outside of holes of all
    kinds; if it differs, the exit code is 4 and it is kept as *.rejected.onnx.
    """
    with needs("pconv-deploy[export]"):
        from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint

    options = ExportOptions(
        kind="tensor" if tensor_level else "deployment",
        batch=batch,
        size=parse_size(size) if size else None,
    )
    with steps() as progress:
        result = export_checkpoint(
            checkpoint, output, options, overwrite=overwrite, progress=progress
        )
    OUT.print(f"[bold]{escape(str(output))}[/bold]  {result.contract.describe_shapes()}")
    source = result.contract.source
    OUT.print(escape(f"checkpoint: {source.family.describe()}; {source.network.describe()}"))
    OUT.print(f"verified: {result.parity.describe()}")
