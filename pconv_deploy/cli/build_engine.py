"""`pconv-deploy build-engine`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pconv_deploy.cli.console import OUT, needs, steps


def build_engine(
    graph: Annotated[Path, typer.Argument(help="ONNX file of `pconv-deploy export`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Engine folder to create.")],
    backend: Annotated[
        str, typer.Option(help="Runtime to build for; `pconv-deploy doctor` lists them.")
    ] = "onnxruntime",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None,
        typer.Option(help="Of the convolutions. Default: the graph's own."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
) -> None:
    """Build an engine folder from an exported graph, checked against the graph.

    The folder holds the runtime's own files and manifest.json: what it was built from, with and
    for, the files' hashes, the evidence that it computes the right thing, and the command that
    builds it again.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.engines import folder

    with steps() as progress:
        manifest = folder.build_engine(
            graph,
            output,
            folder.BuildOptions(backend=backend, precision=precision),
            overwrite=overwrite,
            progress=progress,
        )
    built = manifest.built_with
    OUT.print(
        f"[bold]{escape(str(output))}[/bold]  {built.package} {built.version} on {built.device}, "
        f"{manifest.precision}, {manifest.contract.describe_shapes()}"
    )
    OUT.print(f"verified: {manifest.engine_parity.describe()}")
