"""`/v1`: the engines, and a photo filled by one request."""

from collections.abc import Sequence
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pconv_deploy.images.arrays import Pixels
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.fill import FilledPhoto, PhotoWork
from pconv_deploy.serving.fill_fields import FORMATS, read_fields
from pconv_deploy.serving.options import MIB
from pconv_deploy.serving.pipeline import Done, Stages, Work
from pconv_deploy.serving.service import Service


def fill_routes(service: Service) -> Sequence[BaseRoute]:
    """The routes of what this module says."""

    async def models(_request: Request) -> Response:
        options = service.options
        return JSONResponse(
            {
                "models": [model.facts() for model in service.models.values()],
                "limits": {
                    "max_megapixels": options.max_pixels / 1e6,
                    "max_body_mib": options.max_body_bytes / MIB,
                },
                "formats": FORMATS,
                "needs_key": bool(options.api_keys),
            }
        )

    async def fill(request: Request) -> Response:
        service.require_key(request)
        model = service.model_of(request)
        async with service.bodies.form(request) as (files, fields):
            options, image_format = read_fields(fields, service.options.max_pixels)
            if set(files) != {"image", "mask"}:
                found = ", ".join(name[:80] for name in files) or "none"
                raise RequestError(400, f"found as files: {found}; needed image and mask")
            photo = PhotoWork(model.inpainter, files["image"], files["mask"], options, image_format)

            def answer(filled: Sequence[Pixels], stages: Stages) -> FilledPhoto:
                return photo.answer(filled[0], stages)

            work = Work(lambda stages: [photo.load(stages)], answer)
            return _response(await service.do(request, model, work))

    return [
        Route("/v1/models", models),
        Route("/v1/models/{model}/fill", fill, methods=["POST"]),
    ]


def _response(done: Done[FilledPhoto]) -> Response:
    photo = done.answer
    response = Response(photo.content, media_type=photo.media_type)
    headers = response.headers
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(photo.name, safe='')}"
    headers["Cache-Control"] = "no-store"
    headers["X-Hole-Share"] = f"{photo.hole_share:.6f}"
    headers["X-Batch-Size"] = str(done.batch_size)
    stages = done.stages.items()
    for stage, seconds in [*stages, ("total", sum(seconds for _, seconds in stages))]:
        headers[f"X-{stage.capitalize()}-Ms"] = f"{1000 * seconds:.2f}"
    for note in photo.notes:
        headers.append("X-Note", quote(note.text, safe=" "))
    return response
