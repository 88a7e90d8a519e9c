"""What the routes of a server share: its engines, its threads, its limits and its keys."""

import hmac
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.requests import Request

from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.bodies import Bodies
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.models import Model, load_models
from pconv_deploy.serving.options import ServingOptions
from pconv_deploy.serving.pipeline import Answer, Done, Work, done
from pconv_deploy.serving.statistics import Statistics


class Service:
    """The engines of one application and what surrounds them.

    Raises:
        PConvError: as `load_models`.
    """

    def __init__(
        self, engines: Mapping[str, str | Path | Inpainter], options: ServingOptions
    ) -> None:
        self.options = options
        self.stopping = False
        self.models = load_models(engines, options)
        self.statistics = Statistics(self.models.values())
        self.bodies = Bodies(options.max_body_bytes)
        cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(max(2, min(cores, 32)), thread_name_prefix="pconv-photos")

    @property
    def ready(self) -> bool:
        """Whether every engine is warm, and the server is not about to end."""
        return not self.stopping and all(model.ready for model in self.models.values())

    def model_of(self, request: Request) -> Model:
        """Return the engine that a path names.

        Raises:
            RequestError: 404, there is no such engine.
        """
        name = request.path_params["model"]
        if name not in self.models:
            raise RequestError(
                404, f"found no engine {name[:80]!r}; there are {', '.join(self.models)}"
            )
        return self.models[name]

    def require_key(self, request: Request) -> None:
        """Check a request's key, in a time that does not depend on what it is.

        Raises:
            RequestError: 401.
        """
        if not self.options.api_keys:
            return
        given = request.headers.get("x-api-key", "")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given = token.strip()
        found = [hmac.compare_digest(given.encode(), key.encode()) for key in self.options.api_keys]
        if not any(found):
            wrong = "a wrong one" if given else "none"
            raise RequestError(
                401, f"this server needs a key, found {wrong}; send Authorization: Bearer KEY"
            )

    async def do(self, request: Request, model: Model, work: Work[Answer]) -> Done[Answer]:
        """Do the work of a request, or refuse it at once if too many wait.

        Raises:
            PConvError: as `pipeline.done` and `Model.admitted`.
        """
        begun = time.perf_counter()
        try:
            with model.admitted(work.images):
                result = await done(model, work, self._pool, request.is_disconnected)
        except Exception:
            self.statistics.failed(model.name, time.perf_counter() - begun)
            raise
        self.statistics.filled(model.name, work.images, result)
        return result

    def close(self) -> None:
        """Finish what was accepted, then free the engines."""
        for model in self.models.values():
            model.close()
        self._pool.shutdown()
