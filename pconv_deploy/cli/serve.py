"""`pconv-deploy serve`."""

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import ERR, OUT
from pconv_deploy.cli.options import (
    Count,
    PhotoLimits,
    between,
)
from pconv_deploy.errors import InputError, UsageError, needs

_MAX_KEYS = 64 * 1024  # bytes of the file of keys


def serve(
    engines: Annotated[list[str], typer.Argument(metavar="[NAME=]ENGINE...")],
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, between(0, 65535)] = 8000,
    max_batch_size: Count = None,
    max_queue_delay_us: Annotated[int | None, between(0, 10_000_000)] = None,
    max_queue: Annotated[int, between(1, 100_000)] = 64,
    instances: Annotated[int, between(1, 64)] = 1,
    threads: Count = None,
    limits: PhotoLimits,
    max_body_mib: Annotated[int, between(1, 1024)] = 64,
    api_key_file: Path | None = None,
) -> None:
    """Serve engines over HTTP, with a page to paint holes on.

    Takes photos and masks as multipart forms, and tensors by KServe's protocol, version 2; /docs
    lists all routes, /metrics is for Prometheus. After Ctrl-C or SIGTERM the accepted requests are
    answered before the server ends; a second signal ends it at once.

    Options:
        engines: Engine folders, optionally with the name to serve each under. Default name: the
            folder's name without its suffix.
        host: Address to listen on; 0.0.0.0 for all interfaces.
        port: Port to listen on; 0 for any free port.
        max_batch_size: Maximum images per run of an engine. Default: 1 on a CPU, 8 on a GPU.
        max_queue_delay_us: Microseconds an image may wait for others of its size. Default: 0 on a
            CPU, 2000 on a GPU.
        max_queue: Maximum waiting requests per engine; further ones are answered 503.
        instances: Concurrent runs per engine.
        threads: CPU threads per run. Default: all cores / --instances.
        max_body_mib: Maximum size of a request body in MiB.
        api_key_file: File with one API key per line; requests must send one of them.
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
        max_pixels=int(limits.max_megapixels * 1e6),
        regions=limits.regions(),
        max_body_bytes=max_body_mib * MIB,
        api_keys=_keys(api_key_file) if api_key_file else (),
    )
    # Requests name their own pictures; what Pillow warns of is judged by us.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    listener = listen(host, port)
    address = address_of(listener)
    if not options.api_keys and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
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
