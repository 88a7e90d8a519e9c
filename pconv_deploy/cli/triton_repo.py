"""`pconv-deploy triton-repo`."""

from typing import Annotated

import typer

from pconv_deploy.cli.console import ERR, print_result
from pconv_deploy.cli.options import Count, Engine, Output, Overwrite, between
from pconv_deploy.errors import needs

Numbers = Annotated[str | None, typer.Option(metavar="N,N")]


def triton_repo(
    engine: Engine,
    output: Output,
    name: str | None = None,
    max_batch_size: Count = None,
    max_queue_delay: Annotated[int | None, between(0, 10_000_000)] = None,
    instances: Annotated[int, between(1, 64)] = 1,
    gpus: Numbers = None,
    threads: Count = None,
    profiles: Numbers = None,
    overwrite: Overwrite = False,
) -> None:
    """Put an engine into a model repository of NVIDIA's Triton Inference Server.

    Writes OUTPUT/NAME/1/ with the engine, and OUTPUT/NAME/config.pbtxt: shapes, dynamic batching,
    instances, warm-up, CUDA graphs. Engines for TensorRT and for ONNX Runtime can be served.

    Options:
        output: Model repository folder; other models in it are kept.
        name: Model name. Default: the engine folder's name without its suffix.
        max_batch_size: Maximum batch size. Default: what every profile takes, or 4 without
            profiles.
        max_queue_delay: Microseconds a request may wait for others. Default: 0.
        instances: Model instances per GPU, or on the CPU.
        gpus: GPUs to use. Default: all.
        threads: CPU threads per instance. Default: all cores.
        profiles: TensorRT profiles to serve. Default: all.
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
    print_result(served.folder, served.platform)
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
