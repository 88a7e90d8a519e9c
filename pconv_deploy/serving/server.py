"""Running the application with uvicorn: one process, a clean end, and bounds on slow clients."""

import asyncio
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pconv_deploy.errors import EngineError, UsageError

# Seconds for the head of a request, from the connection or from the answer before it.
_HEAD_SECONDS: Final = 30
_MAX_HEAD: Final = 64 * 1024
# Milliseconds after which a client that reads nothing of its answer is given up.
_UNREAD_MS: Final = 60_000
_SAME_REQUEST: Final = 1.0  # seconds: some shells and launchers send a signal twice


def listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {why}. Choose others with --host and --port"
        ) from error
    # The connections inherit both. Without the second one the end of an answer waits for the client
    # to confirm its head, some 40 ms; asyncio sets it for sockets of its own only.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> str:
    """The address of the page, as browsers take it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def run_server(app: Starlette, listener: socket.socket, when_ready: Callable[[], None]) -> None:
    """Serve until a signal comes; then answer what was accepted, and let the signal take effect.

    Args:
        app: of `create_app`.
        listener: of `listen`; it is closed.
        when_ready: called once every engine is warm.

    Raises:
        EngineError: an engine could not be warmed up.
        KeyboardInterrupt, SystemExit: by the handlers of the signal that ended it.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = EngineServer(app, when_ready)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise EngineError(f"an engine could not be warmed up: {server.failure}")


class EngineServer(uvicorn.Server):
    """Uvicorn's server, with our bounds; see `run_server`.

    failure  why an engine could not be warmed up, which ends the server
    """

    def __init__(self, app: Starlette, when_ready: Callable[[], None]) -> None:
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_HEAD_SECONDS,
                # What is more is answered 503; files and other sockets need the rest.
                limit_concurrency=max(16, min(4096, soft * 3 // 4)),
            )
        )
        self._service, self._when_ready = app.state.service, when_ready
        self._stopped_at: float | None = None
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._waiting = asyncio.create_task(self._wait_for_engines())

    async def _wait_for_engines(self) -> None:
        warm = [asyncio.wrap_future(model.warm) for model in self._service.models.values()]
        results = await asyncio.gather(*warm, return_exceptions=True)
        self.failure = next((r for r in results if isinstance(r, BaseException)), None)
        if self.failure is not None:
            self.should_exit = True
        elif not self.should_exit:
            self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take the first signal as a request to end, a later one as the end."""
        self._service.stopping = True
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
            super().handle_exit(sig, frame)
        elif now > self._stopped_at + _SAME_REQUEST:
            # The engine may be busy for long: nothing waits for it.
            os._exit(128 + sig)


class _Connection(HttpToolsProtocol):
    """Ends a connection whose request does not come, or has too large a head."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._expect_head()

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_HEAD:
            raise ValueError("the head of the request is too large")
