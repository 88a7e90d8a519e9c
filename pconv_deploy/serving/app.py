"""The ASGI application: what `pconv-deploy serve` runs, and other programs mount."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pconv_deploy.errors import PConvError
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.errors import RequestError, status_of
from pconv_deploy.serving.fill_routes import fill_routes
from pconv_deploy.serving.kserve_routes import kserve_routes
from pconv_deploy.serving.openapi import openapi_routes
from pconv_deploy.serving.options import ServingOptions
from pconv_deploy.serving.page_routes import page_routes
from pconv_deploy.serving.service import Service
from pconv_deploy.serving.statistics import CONTENT_TYPE


def create_app(
    engines: Mapping[str, str | Path | Inpainter], options: ServingOptions | None = None
) -> Starlette:
    """Make an application that fills holes with these engines; they are warmed up at once.

    It may be mounted below a path of another application. Then call `app.state.service.close()`
    when that one ends; run by itself, it does so when it is shut down.

    Args:
        engines: name in addresses -> engine folder, or an `Inpainter` (which is closed at the end).
        options: None takes the defaults.

    Raises:
        UsageError: no engine, or a name that is none.
        EngineError: as `Inpainter.load`.
        MissingRuntimeError: an engine's runtime is not installed.
    """
    service = Service(engines, options or ServingOptions())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    async def metrics(request: Request) -> Response:
        service.require_key(request)
        return Response(service.statistics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    app = Starlette(
        routes=[
            *fill_routes(service),
            *kserve_routes(service),
            *page_routes(),
            *openapi_routes(),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(_Counted, service=service)],
        exception_handlers={
            PConvError: _refused,
            HTTPException: _not_found,
            Exception: _bug,
        },
        lifespan=lifespan,
    )
    # Their addresses would come from the Host header, and only mistakes of clients need them.
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PConvError)
    headers = {}
    if isinstance(error, RequestError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _error(status_of(error), str(error), type(error).__name__, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    messages = {404: f"found nothing at {what}", 405: f"this address does not take {what}"}
    message = messages.get(error.status_code, error.detail)
    return _error(error.status_code, message, "RequestError", error.headers)


async def _bug(_request: Request, _exception: Exception) -> Response:
    return _error(500, "the server failed; its log says how", "InternalError")


def _error(
    status: int, message: str, kind: str, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse({"error": message, "kind": kind}, status, headers)


class _Counted:
    """Counts requests, and tells browsers to take every answer for what it says it is."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # as long as nothing is answered

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        self._service.statistics.begun()
        try:
            await self._app(scope, receive, sent)
        except Exception:
            status = 500  # answered by what is around this
            raise
        finally:
            model = scope.get("path_params", {}).get("model", "")
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            known = model if model in self._service.models else ""
            self._service.statistics.ended(known, endpoint, status)
