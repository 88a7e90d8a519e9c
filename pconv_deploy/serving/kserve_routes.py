"""`/v2`: KServe's protocol, as its clients and Triton's ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pconv_deploy.commands.photo import require_padded_size
from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.shapes import Size
from pconv_deploy.errors import PictureSizeError
from pconv_deploy.images.arrays import Bytes, Pixels
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskReading
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.fill import PhotoWork, Upload
from pconv_deploy.serving.fill_fields import read_fields
from pconv_deploy.serving.kserve import (
    HEAD_LENGTH,
    MAX_IMAGES,
    InferRequest,
    read_request,
    write_answer,
)
from pconv_deploy.serving.models import Model
from pconv_deploy.serving.options import ServingOptions
from pconv_deploy.serving.pipeline import Stages, Work
from pconv_deploy.serving.service import Service

_SHAPES: Final = {IMAGE: [-1, -1, -1, 3], HOLE_MASK: [-1, -1, -1], FILLED: [-1, -1, -1, 3]}


def kserve_routes(service: Service) -> Sequence[BaseRoute]:
    """The routes of what this module says."""

    async def server(_request: Request) -> Response:
        extensions = ["binary_tensor_data", "statistics", "model_configuration"]
        return JSONResponse(
            {"name": "pconv-deploy", "version": version("pconv-deploy"), "extensions": extensions}
        )

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_request: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def model_ready(request: Request) -> Response:
        model = service.model_of(request)
        able = model.ready and not service.stopping
        return JSONResponse({"name": model.name, "ready": able}, 200 if able else 503)

    async def metadata(request: Request) -> Response:
        service.require_key(request)
        return JSONResponse(_metadata(service.model_of(request)))

    async def config(request: Request) -> Response:
        service.require_key(request)
        return JSONResponse(_config(service.model_of(request)))

    async def stats(request: Request) -> Response:
        service.require_key(request)
        model = service.model_of(request)
        return JSONResponse({"model_stats": [service.statistics.of_model(model.name)]})

    async def infer(request: Request) -> Response:
        service.require_key(request)
        model = service.model_of(request)
        async with service.bodies.whole(request) as body:
            asked = read_request(body, request.headers.get(HEAD_LENGTH))
            work = _work(service, model, asked)
            done = await service.do(request, model, work)
        content, headers = write_answer(model.name, asked.id, done.answer, binary=asked.binary)
        return Response(content, headers=headers)

    def both(path: str, endpoint: Any, method: str = "GET") -> list[BaseRoute]:
        """With and without the version, of which there is one."""
        return [
            Route(f"/v2/models/{{model}}{of_version}{path}", endpoint, methods=[method])
            for of_version in ("", "/versions/1")
        ]

    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *both("", metadata),
        *both("/ready", model_ready),
        *both("/config", config),
        *both("/stats", stats),
        *both("/infer", infer, "POST"),
    ]


def _metadata(model: Model) -> dict[str, Any]:
    def told(name: str) -> dict[str, Any]:
        return {"name": name, "datatype": "UINT8", "shape": _SHAPES[name]}

    return {
        "name": model.name,
        "versions": ["1"],
        "platform": f"pconv-deploy_{model.facts()['backend']}",
        "inputs": [told(IMAGE), told(HOLE_MASK)],
        "outputs": [told(FILLED)],
    }


def _config(model: Model) -> dict[str, Any]:
    """As Triton describes a model: the first dimension is the batch's."""

    def told(name: str) -> dict[str, Any]:
        return {"name": name, "data_type": "TYPE_UINT8", "dims": _SHAPES[name][1:]}

    return {
        "name": model.name,
        "platform": "",
        "backend": "pconv-deploy",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": MAX_IMAGES,
        "input": [told(IMAGE), told(HOLE_MASK)],
        "output": [told(FILLED)],
    }


def _work(service: Service, model: Model, asked: InferRequest) -> Work[Any]:
    max_pixels = service.options.max_pixels
    if asked.tensors is None:
        fields = {name: _text(value) for name, value in asked.parameters.items()}
        options, image_format = read_fields(fields, max_pixels)
        photos = [
            PhotoWork(
                model.inpainter,
                Upload("image", image),
                Upload("hole_mask", hole_mask),
                options,
                image_format,
            )
            for image, hole_mask in asked.files
        ]

        def load(stages: Stages) -> list[Prepared]:
            prepared = list[Prepared]()
            for photo in photos:
                prepared.append(photo.load(stages))
                _require_room([item.padded_size for item in prepared], service.options)
            return prepared

        def answer(filled: Sequence[Pixels], stages: Stages) -> list[bytes]:
            pairs = zip(photos, filled, strict=True)
            return [photo.answer(pixels, stages).content for photo, pixels in pairs]

        return Work(load, answer, len(photos))
    image, hole_mask = asked.tensors
    if asked.parameters:
        raise RequestError(
            400, f"parameters: found {', '.join(asked.parameters)[:200]}; tensors take none"
        )
    tensors = _TensorWork(model.inpainter, image, hole_mask, service.options)
    return Work(tensors.load, tensors.answer, len(image))


def _require_room(padded: Sequence[Size], options: ServingOptions) -> None:
    """Check what the images of one request take together; each alone may be as large as any.

    Raises:
        PictureSizeError: more than two of the largest, and than the largest body could bring.
    """
    found = sum(height * width for height, width in padded)
    most = max(2 * options.max_pixels, options.max_body_bytes // 4)
    if found > most:
        raise PictureSizeError(
            f"found {len(padded)} images of {found / 1e6:.2f} megapixels together, padded for the "
            f"network; needed at most {most / 1e6:.2f} in one request: send fewer at once"
        )


def _text(value: object) -> str:
    """A parameter of JSON, as the field of a form has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class _TensorWork:
    """The two halves of a request of tensors: see `kserve.InferRequest`."""

    inpainter: Inpainter
    image: Bytes
    hole_mask: Bytes
    options: ServingOptions

    def load(self, stages: Stages) -> list[Prepared]:
        with stages.timed("pre"):
            height, width = self.hole_mask.shape[1:]
            require_padded_size(self.inpainter, IMAGE, (height, width), self.options.max_pixels)
            padded = self.inpainter.padded_size(height, width)
            _require_room([padded] * len(self.image), self.options)
            return [
                self.inpainter.prepare_hole(
                    image, hole, MaskReading(hole.astype(np.uint8) * np.uint8(255), DEFAULT_RULE)
                )
                for image, hole in zip(self.image, self.hole_mask != 0, strict=True)
            ]

    def answer(self, filled: Sequence[Pixels], stages: Stages) -> Bytes:
        with stages.timed("encode"):
            together: Bytes = np.stack(filled)
        return together
