"""`python -m pconv_deploy.serving.load`: everything once, as JSON and as tables."""

import contextlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from pconv_deploy.engines.processor import model_name
from pconv_deploy.errors import PConvError
from pconv_deploy.files import atomic_file
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.load.exchanges import mixed, picture, tensors
from pconv_deploy.serving.load.measures import mixed_load, overhead, throughput
from pconv_deploy.serving.load.processes import bare, served
from pconv_deploy.serving.load.report import Report, as_markdown

_CLIENTS = (4, 16)
_PACKAGES = ("numpy", "starlette", "uvicorn")


def main(  # noqa: PLR0913  one parameter for each option
    engine: Annotated[Path, typer.Argument(help="Engine folder.")],
    output: Annotated[Path | None, typer.Option("-o", help="JSON of all figures.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=10_000_000, help="Of mixed sizes.")] = 20_000,
    clients: Annotated[int, typer.Option(min=1, max=256, help="That send them.")] = 16,
    limit: Annotated[float, typer.Option(min=1, help="Seconds for them at most.")] = 3600,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of the other images.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="One image, in turns.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Of a turn of many.")] = 10,
    instances: Annotated[int, typer.Option(min=1, max=64, help="As of serve.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="As of serve.")] = None,
    max_batch_size: Annotated[
        int | None, typer.Option(min=1, max=1024, help="As of serve; the bare engine runs one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of pictures and holes.")] = 0,
) -> None:
    """Load a server of its own, check every answer, and time it beside the bare engine."""
    cores = len(os.sched_getaffinity(0))
    if threads is None and instances > 1:
        threads = max(1, cores // instances)  # what serve takes
    options = {"instances": instances, "threads": threads, "max-batch-size": max_batch_size}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    image, hole_mask = picture((size, size), seed)
    with Inpainter.load(engine, threads=threads) as inpaint:
        one, many = tensors(inpaint, image, hole_mask), mixed(inpaint, seed)
        manifest = inpaint.manifest
    assert manifest is not None
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        arrays = {"image": image, "hole_mask": hole_mask}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        files = {name: str(folder / f"{name}.npy") for name in arrays}
        told = {"threads": threads, "instances": instances, **files}
        alone = running.enter_context(bare(engine, told))
        server = running.enter_context(served(engine, given))
        added = overhead(server, alone, one, rounds)
        in_turns = tuple(
            throughput(server, alone, one, clients=count, seconds=seconds, rounds=3)
            for count in _CLIENTS
        )
        rss = server.rss_mib, alone.rss_mib
        report = Report(
            backend=f"{manifest.backend} {manifest.precision}",
            processor=model_name(),
            cores=cores,
            options=options,
            size=(size, size),
            ready_after=(server.ready_after, alone.ready_after),
            rss_mib=rss,
            overhead=added,
            throughput=in_turns,
            mixed=mixed_load(server, many, requests=requests, clients=clients, limit=limit),
            versions={name: version(name) for name in _PACKAGES},
        )
    if output is not None:
        with atomic_file(output) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    typer.echo(as_markdown(report))


if __name__ == "__main__":
    try:
        typer.run(main)
    except PConvError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
