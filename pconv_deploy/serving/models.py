"""The engines of a server: each with its queue, its turns and whether it is warm."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

from pconv_deploy.engines.registry import backend_named
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.batcher import Batcher
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.options import ServingOptions

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_NAME = 100


class Model:
    """A loaded engine that requests are lined up for.

    turns  how many requests may hold decoded pictures: those in the engine, and enough beside
           them to keep it busy. The others wait encoded, which takes little memory.
    """

    def __init__(self, name: str, inpainter: Inpainter, options: ServingOptions) -> None:
        self.name, self.inpainter = name, inpainter
        manifest = inpainter.manifest
        on_cpu = manifest is None or backend_named(manifest.backend).traits.device == "cpu"
        delay = options.max_queue_delay_us
        if delay is None:
            delay = 0 if on_cpu else 2000
        self.max_batch_size = options.max_batch_size or (1 if on_cpu else 8)
        self.capacity = self.max_batch_size * options.instances
        self.turns = asyncio.Semaphore(2 * self.capacity + 2)
        self._max_accepted = options.max_queue + self.capacity
        self.accepted = 0
        self.batcher = Batcher(
            inpainter.run,
            max_batch_size=self.max_batch_size,
            max_delay=delay / 1e6,
            instances=options.instances,
            name=f"pconv-{name}",
        )
        self.warm: Future[None] = Future()
        threading.Thread(target=self._warm_up, name=f"pconv-warm-{name}", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether the first request would be as fast as the rest."""
        return self.warm.done() and self.warm.exception() is None

    @contextlib.contextmanager
    def admitted(self, images: int = 1) -> Iterator[None]:
        """Count a request in, or refuse it at once.

        Raises:
            RequestError: 503, too many wait already, or the engine is not warm yet.
        """
        if not self.ready:
            self._require_no_failure()
            raise RequestError(503, f"{self.name} is being warmed up; try again", retry_after=1)
        if self.accepted and self.accepted + images > self._max_accepted:
            raise RequestError(
                503,
                f"{self.accepted} images wait for {self.name} already; try again",
                retry_after=1,
            )
        self.accepted += images
        try:
            yield
        finally:
            self.accepted -= images

    def facts(self) -> dict[str, str | int | bool]:
        """What people want to know of it."""
        manifest, contract = self.inpainter.manifest, self.inpainter.contract
        return {
            "name": self.name,
            "backend": manifest.backend if manifest else "",
            "device": manifest.built_with.device if manifest else "",
            "precision": manifest.precision if manifest else contract.precision,
            "network": contract.source.describe_network(),
            "size_multiple": contract.size_multiple,
            "ready": self.ready,
            "accepted": self.accepted,
        }

    def close(self) -> None:
        """Run what is lined up, then free the engine."""
        self.batcher.close()
        self.inpainter.close()

    def _require_no_failure(self) -> None:
        if self.warm.done() and (error := self.warm.exception()):
            raise EngineError(f"{self.name} cannot be used: {error}")

    def _warm_up(self) -> None:
        try:
            for batch in {1, self.max_batch_size}:
                self.inpainter.warm_up(batch=batch)
        except Exception as error:  # noqa: BLE001  told to whoever asks for the model
            self.warm.set_exception(error)
        else:
            self.warm.set_result(None)


def load_models(
    engines: Mapping[str, str | Path | Inpainter], options: ServingOptions
) -> dict[str, Model]:
    """Open the engines, and begin to warm them up.

    Raises:
        UsageError: no engine, or a name that is none.
        EngineError, MissingRuntimeError: as `Inpainter.load`.
    """
    if not engines:
        raise UsageError("found no engine to serve; needed one at least")
    for name in engines:
        if not 0 < len(name) <= _MAX_NAME or not _NAME_CHARACTERS.issuperset(name):
            raise UsageError(
                f"found {name!r} as the name of an engine; needed letters, digits, '.', '_' and "
                f"'-', {_MAX_NAME} at most, such as photos=ENGINE"
            )
    threads = options.threads
    if threads is None and options.instances > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // options.instances)
    with contextlib.ExitStack() as opened:
        inpainters = {
            name: engine
            if isinstance(engine, Inpainter)
            else opened.enter_context(
                Inpainter.load(
                    engine, threads=threads, streams=options.instances, regions=options.regions
                )
            )
            for name, engine in engines.items()
        }
        opened.pop_all()
    return {name: Model(name, inpainter, options) for name, inpainter in inpainters.items()}
