"""One request from its bytes to its answer, stage by stage, and how long each took."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from pconv_deploy.images.arrays import Pixels
from pconv_deploy.inpainter import Prepared, finish
from pconv_deploy.serving.batcher import Ran
from pconv_deploy.serving.errors import ClientGoneError
from pconv_deploy.serving.models import Model

Answer = TypeVar("Answer")


@dataclass
class Stages:
    """Seconds that each stage of a request took.

    queue   waiting for its turn, and for the engine
    decode  its pictures read from bytes
    pre     hole found, image converted and padded
    infer   the run of the engine, which others may have shared
    post    result put together
    encode  picture written to bytes
    """

    queue: float = 0.0
    decode: float = 0.0
    pre: float = 0.0
    infer: float = 0.0
    post: float = 0.0
    encode: float = 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what the block takes to a stage."""
        begun = time.perf_counter()
        yield
        setattr(self, stage, getattr(self, stage) + time.perf_counter() - begun)

    def items(self) -> list[tuple[str, float]]:
        """Each stage and its seconds."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


@dataclass(frozen=True)
class Work(Generic[Answer]):
    """What a request needs done before the engine and after it; both in a thread.

    load    decodes and prepares its images
    answer  makes the answer of the filled pixels, one (H, W, C) for each image
    images  how many there are
    """

    load: Callable[[Stages], Sequence[Prepared]]
    answer: Callable[[Sequence[Pixels], Stages], Answer]
    images: int = 1


@dataclass(frozen=True)
class Done(Generic[Answer]):
    """An answer, how it came about, and the largest batch its images were in (0: none ran)."""

    answer: Answer
    stages: Stages
    batch_size: int


async def done(
    model: Model, work: Work[Answer], pool: Executor, gone: Callable[[], Awaitable[bool]]
) -> Done[Answer]:
    """Do the work of an admitted request.

    Args:
        model: that fills.
        work: of the request.
        pool: threads for what is not the engine's.
        gone: whether the client has left: then nothing more is done.

    Raises:
        PConvError: the request's own fault, or the engine's.
        ClientGoneError: the client left before its turn came.
    """
    loop, stages = asyncio.get_running_loop(), Stages()
    begun = time.perf_counter()
    async with model.turns:
        stages.queue += time.perf_counter() - begun
        if await gone():
            raise ClientGoneError
        prepared = await loop.run_in_executor(pool, work.load, stages)
        ran = await _ran(model, prepared)
        if ran:
            stages.queue += max(one.waited for one in ran.values())
            stages.infer = max(one.took for one in ran.values())

        def end() -> Answer:
            with stages.timed("post"):
                filled = [
                    finish(item, ran[index].filled) if index in ran else item.pixels
                    for index, item in enumerate(prepared)
                ]
            return work.answer(filled, stages)

        answer = await loop.run_in_executor(pool, end)
    return Done(answer, stages, max((one.batch_size for one in ran.values()), default=0))


async def _ran(model: Model, prepared: Sequence[Prepared]) -> dict[int, Ran]:
    """Run all that have a hole, each by its index."""
    lined_up: dict[int, Future[Ran]] = {
        index: model.batcher.submit(item)
        for index, item in enumerate(prepared)
        if item.hole.any()  # without a hole there is nothing to compute
    }
    try:
        results = await asyncio.gather(*map(asyncio.wrap_future, lined_up.values()))
    finally:
        for future in lined_up.values():
            future.cancel()  # what waits still, after another failed or the server ended
    return dict(zip(lined_up, results, strict=True))
