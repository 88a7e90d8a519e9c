"""A server in a thread of the test, and requests to it."""

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.types import ASGIApp

from pconv_deploy.images.arrays import Bytes
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.serving import ServingOptions, create_app
from pconv_deploy.serving.server import EngineServer, listen

BOUNDARY = "a-boundary"
SECONDS = 60.0  # for anything; the machine may be busy


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(self.body)))


@contextlib.contextmanager
def serving(
    engines: Mapping[str, str | Path | Inpainter], **options: Any
) -> Iterator[tuple[str, int]]:
    """Host and port of a warm server, which ends with the block."""
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = EngineServer(create_app(engines, ServingOptions(**options)), ready.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


@contextlib.contextmanager
def running(app: ASGIApp) -> Iterator[tuple[str, int]]:
    """Host and port of any application, started and shut down as its `lifespan` says."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


def ask(
    address: tuple[str, int],
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Answer:
    connection = HTTPConnection(*address, timeout=SECONDS)
    try:
        connection.request(
            method or ("GET" if body is None else "POST"), path, body, dict(headers or {})
        )
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def form(files: Mapping[str, tuple[str, bytes]], fields: Mapping[str, str]) -> bytes:
    """A multipart body with BOUNDARY; files are (name, content) by field."""
    parts = [
        (f'name="{field}"; filename="{name}"', content) for field, (name, content) in files.items()
    ]
    parts += [(f'name="{field}"', text.encode()) for field, text in fields.items()]
    lines = [
        line
        for head, content in parts
        for line in (
            f"--{BOUNDARY}".encode(),
            f"Content-Disposition: form-data; {head}".encode(),
            b"",
            content,
        )
    ]
    return b"\r\n".join([*lines, f"--{BOUNDARY}--".encode(), b""])


def fill(
    address: tuple[str, int],
    image: bytes,
    hole_mask: bytes,
    model: str = "tiny",
    *,
    names: tuple[str, str] = ("photo.png", "hole.png"),
    headers: Mapping[str, str] | None = None,
    below: str = "",
    **fields: Any,
) -> Answer:
    files = {"image": (names[0], image), "mask": (names[1], hole_mask)}
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return ask(
        address, f"{below}/v1/models/{model}/fill", form(files, fields), kind | dict(headers or {})
    )


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


class Held(Inpainter):
    """An engine that holds every run but those of its warm-up until it is let go."""

    open: threading.Event
    begun: threading.Semaphore
    runs: list[int]

    @classmethod
    def of(cls, engine: Path) -> "Held":
        held = cls.load(engine, threads=1)
        held.open, held.begun, held.runs = threading.Event(), threading.Semaphore(0), []
        held.warm_up = lambda *_args, **_options: None  # type: ignore[method-assign]
        return held

    def run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        self.begun.release()
        assert self.open.wait(SECONDS)
        self.runs.append(len(prepared))
        return super().run(prepared)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waiting_requests(address: tuple[str, int]) -> int:
    """Images of accepted requests."""
    return int(ask(address, "/v1/models").json["models"][0]["accepted"])
