"""The page to paint holes on, and the photos it offers to try."""

import hashlib
import mimetypes
from collections.abc import Sequence
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pconv_deploy.assets.photos import CREDITS, photo_file
from pconv_deploy.serving.errors import RequestError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes() -> Sequence[BaseRoute]:
    """The routes of what this module says."""
    assets = {
        asset.name: _Asset(asset.name, asset.read_bytes())
        for asset in files("pconv_deploy.serving").joinpath("page").iterdir()
        if asset.is_file()
    }
    pictures = {f"{name}.jpg": _Asset(f"{name}.jpg", photo_file(name)) for name in CREDITS}

    async def page(request: Request) -> Response:
        return assets["index.html"].response(request)

    async def asset(request: Request) -> Response:
        return _named(assets, request).response(request)

    async def examples(_request: Request) -> Response:
        return JSONResponse(
            {
                "examples": [
                    {"name": name, "credit": credit, "image": f"v1/examples/{name}.jpg"}
                    for name, credit in CREDITS.items()
                ]
            }
        )

    async def example(request: Request) -> Response:
        return _named(pictures, request).response(request)

    return [
        Route("/", page),
        Route("/page/{name}", asset),
        Route("/v1/examples", examples),
        Route("/v1/examples/{name}", example),
    ]


class _Asset:
    """A file that browsers may keep, and ask whether it has changed."""

    def __init__(self, name: str, content: bytes) -> None:
        self._content = content
        self._type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'

    def response(self, request: Request) -> Response:
        headers = {
            "ETag": self._tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
        }
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._type, headers=headers)


def _named(assets: dict[str, _Asset], request: Request) -> _Asset:
    found = assets.get(request.path_params["name"])
    if found is None:
        raise RequestError(404, f"found nothing at {request.url.path[:200]}")
    return found
