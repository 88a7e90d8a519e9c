"""`pconv-deploy serve`."""

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import ERR, OUT
from pconv_deploy.cli.options import PhotoMegapixels
from pconv_deploy.cli.region_options import Context, MaxMemory, Region, region_options
from pconv_deploy.errors import InputError, UsageError, needs

_MAX_KEYS = 64 * 1024  # bytes of the file of keys


def serve(
    engines: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]ENGINE...",
            help="Engine folders, optionally with the name to serve each under. Default "
            "name: the folder's name without its suffix.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")
    ] = 8000,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Maximum images per run of an engine. Default: 1 on a CPU, 8 on a GPU.",
        ),
    ] = None,
    max_queue_delay_us: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10_000_000,
            help="Microseconds an image may wait for others of its size. Default: 0 on a "
            "CPU, 2000 on a GPU.",
        ),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1,
            max=100_000,
            help="Maximum waiting requests per engine; further ones are answered 503.",
        ),
    ] = 64,
    instances: Annotated[
        int,
        typer.Option(min=1, max=64, help="Concurrent runs per engine."),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="CPU threads per run. Default: all cores / --instances."
        ),
    ] = None,
    region: Region = "auto",
    context: Context = None,
    max_memory: MaxMemory = None,
    max_megapixels: PhotoMegapixels = 25,
    max_body_mib: Annotated[
        int, typer.Option(min=1, max=1024, help="Maximum size of a request body in MiB.")
    ] = 64,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with one API key per line; requests must send one of them."),
    ] = None,
) -> None:
    """Serve engines over HTTP, with a page to paint holes on.

    Takes photos and masks as multipart forms, and tensors by KServe's protocol, version 2; /docs
    lists all routes, /metrics is for Prometheus. After Ctrl-C or SIGTERM the accepted requests are
    answered before the server ends; a second signal ends it at once.
    """
    with needs("pconv-deploy[serve]", what="serve"):
        from pconv_deploy.serving import ServingOptions, create_app
        from pconv_deploy.serving.options import MIB
        from pconv_deploy.serving.server import address_of, listen, run_server

    folders = _named_folders(engines)
    options = ServingOptions(
        max_batch_size=max_batch_size,
        max_queue_delay_us=max_queue_delay_us,
        max_queue=max_queue,
        instances=instances,
        threads=threads,
        max_pixels=int(max_megapixels * 1e6),
        regions=region_options(region, context, max_memory),
        max_body_bytes=max_body_mib * MIB,
        api_keys=_keys(api_key_file) if api_key_file else (),
    )
    # Requests name their own pictures; what Pillow warns of is judged by us.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    listener = listen(host, port)
    address = address_of(listener)
    if not options.api_keys and not _is_loopback(listener.getsockname()[0]):
        ERR.print(
            f"[yellow]note:[/yellow] anybody who reaches {escape(host)} can use this server: "
            "--api-key-file asks for a key"
        )
    with listener:
        app = create_app(folders, options)
        OUT.print(f"warming up {', '.join(folders)}", markup=False)
        run_server(
            app,
            listener,
            lambda: OUT.print(f"[bold]{address}[/bold]  ready; Ctrl-C ends it", highlight=False),
        )


def _named_folders(engines: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for engine in engines:
        name, equals, folder = engine.partition("=")
        if not equals or Path(engine).exists():
            name, folder = Path(engine).resolve().stem, engine
        if name in folders:
            raise UsageError(
                f"found two engines of the name {name}; needed names of their own, as in "
                f"{name}-2={folder}"
            )
        folders[name] = Path(folder)
    return folders


def _keys(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_KEYS + 1)
        keys = tuple(line.strip() for line in text.decode("ascii").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError(f"{file} holds characters that no key has; needed ASCII") from error
    if not keys or len(text) > _MAX_KEYS:
        found = "no key" if not keys else f"more than {_MAX_KEYS} bytes"
        raise InputError(f"found {found} in {file}; needed keys, one a line")
    return keys


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
