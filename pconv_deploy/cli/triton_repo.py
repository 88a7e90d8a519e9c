"""`pconv-deploy triton-repo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import ERR, OUT
from pconv_deploy.cli.options import Overwrite
from pconv_deploy.errors import needs


def triton_repo(
    engine: Annotated[
        Path, typer.Argument(help="Engine folder, made by `pconv-deploy build-engine`.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Model repository folder; other models in it are kept."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Model name. Default: the engine folder's name without its suffix."),
    ] = None,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Maximum batch size. Default: what every profile takes, or 4 without profiles.",
        ),
    ] = None,
    max_queue_delay: Annotated[
        int | None,
        typer.Option(
            min=0, max=10_000_000, help="Microseconds a request may wait for others. Default: 0."
        ),
    ] = None,
    instances: Annotated[
        int, typer.Option(min=1, max=64, help="Model instances per GPU, or on the CPU.")
    ] = 1,
    gpus: Annotated[
        str | None, typer.Option(metavar="N,N", help="GPUs to use. Default: all.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="CPU threads per instance. Default: all cores."),
    ] = None,
    profiles: Annotated[
        str | None, typer.Option(metavar="N,N", help="TensorRT profiles to serve. Default: all.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put an engine into a model repository of NVIDIA's Triton Inference Server.

    Writes OUTPUT/NAME/1/ with the engine, and OUTPUT/NAME/config.pbtxt: shapes, dynamic batching,
    instances, warm-up, CUDA graphs. Engines for TensorRT and for ONNX Runtime can be served.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.triton.configuration import ServeOptions
        from pconv_deploy.triton.repository import write_model

    options = ServeOptions(
        max_batch_size=max_batch_size,
        max_queue_delay=max_queue_delay,
        instances=instances,
        gpus=_numbers(gpus, "--gpus"),
        threads=threads,
        profiles=_numbers(profiles, "--profiles"),
    )
    served = write_model(engine, output, options, name=name, overwrite=overwrite)
    OUT.print(f"[bold]{escape(str(served.folder))}[/bold]  {served.platform}")
    for note in served.notes:
        ERR.print(f"note: {note}", markup=False)


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    """'0,2' -> 0, 2."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 5 for word in words):
        raise typer.BadParameter(
            f"found {text!r}; needed numbers from 0, as 0 or 0,2", param_hint=option
        )
    return tuple(dict.fromkeys(map(int, words)))
