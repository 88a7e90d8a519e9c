"""Images of one padded size share runs; nobody waits too long, nobody gets another's result."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait

import numpy as np
import pytest

from pconv_deploy.errors import EngineError
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.inpainter import Prepared
from pconv_deploy.serving.batcher import Batcher, Ran

SECONDS = 60.0


def image(value: int, height: int = 8, width: int = 8) -> Prepared:
    """One whose result is itself plus one."""
    pixels = np.full((height, width, 3), value, np.uint8)
    hole = np.ones((height, width), bool)
    return Prepared(pixels, hole, pixels, hole.astype(np.uint8))


class Engine:
    """Notes its runs, and waits in each until it is let go."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, batch: Sequence[Prepared]) -> list[Bytes]:
        assert len({item.padded_size for item in batch}) == 1
        self.runs.append([int(item.image[0, 0, 0]) for item in batch])
        self.begun.release()
        assert self.open.wait(SECONDS)
        if 13 in self.runs[-1]:
            raise EngineError("13 is too large")
        return [item.image + np.uint8(1) for item in batch]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.open.set()


def batcher(engine: Engine, size: int = 4, delay: float = 0.0, instances: int = 1) -> Batcher:
    return Batcher(engine, max_batch_size=size, max_delay=delay, instances=instances, name="test")


def held(engine: Engine, lined_up: Batcher) -> Future[Ran]:
    """Keep the engine busy, so that what comes next waits."""
    first = lined_up.submit(image(0))
    assert engine.begun.acquire(timeout=SECONDS)
    return first


def test_what_waits_is_grouped_by_size_in_the_order_it_came(engine: Engine) -> None:
    lined_up = batcher(engine)
    futures = [held(engine, lined_up)]
    sizes = [(8, 8), (8, 16), (8, 8), (8, 16), (8, 8), (8, 8), (8, 8)]
    futures += [lined_up.submit(image(value, *size)) for value, size in enumerate(sizes, start=1)]
    assert lined_up.waiting == 7
    engine.open.set()
    results = [future.result(SECONDS) for future in futures]
    assert engine.runs == [[0], [1, 3, 5, 6], [2, 4], [7]]
    assert [int(r.filled[0, 0, 0]) for r in results] == list(range(1, 9))
    assert [r.batch_size for r in results] == [1, 4, 2, 4, 2, 4, 4, 1]
    lined_up.close()


def test_an_image_waits_for_others_as_long_as_agreed(engine: Engine) -> None:
    engine.open.set()
    lined_up = batcher(engine, size=2, delay=0.2)
    begun = time.monotonic()
    assert lined_up.submit(image(1)).result(SECONDS).batch_size == 1
    assert time.monotonic() - begun >= 0.2
    lined_up.close()


def test_a_full_batch_does_not_wait(engine: Engine) -> None:
    engine.open.set()
    lined_up = batcher(engine, size=2, delay=SECONDS * 10)
    futures = [lined_up.submit(image(value)) for value in (1, 2)]
    assert [future.result(SECONDS).batch_size for future in futures] == [2, 2]
    lined_up.close()


def test_instances_run_at_the_same_time(engine: Engine) -> None:
    lined_up = batcher(engine, size=1, instances=2)
    futures = [lined_up.submit(image(value)) for value in (1, 2)]
    for _ in futures:
        assert engine.begun.acquire(timeout=SECONDS)
    engine.open.set()
    wait(futures, SECONDS)
    lined_up.close()


def test_one_that_fails_takes_no_other_along(engine: Engine) -> None:
    lined_up = batcher(engine)
    futures = [held(engine, lined_up)] + [lined_up.submit(image(v)) for v in (12, 13, 14)]
    engine.open.set()
    assert int(futures[1].result(SECONDS).filled[0, 0, 0]) == 13
    with pytest.raises(EngineError, match="13 is too large"):
        futures[2].result(SECONDS)
    assert int(futures[3].result(SECONDS).filled[0, 0, 0]) == 15
    lined_up.close()


def test_a_bug_is_told_and_the_next_image_is_run(engine: Engine) -> None:
    engine.open.set()
    lined_up = batcher(engine)
    broken = Prepared(*(None,) * 4)  # type: ignore[arg-type]
    object.__setattr__(broken, "hole_mask", np.ones((8, 8), np.uint8))
    with pytest.raises(TypeError):
        lined_up.submit(broken).result(SECONDS)
    assert lined_up.submit(image(1)).result(SECONDS).batch_size == 1
    lined_up.close()


def test_a_cancelled_image_costs_nothing(engine: Engine) -> None:
    lined_up = batcher(engine)
    first = held(engine, lined_up)
    second, third = lined_up.submit(image(1)), lined_up.submit(image(2))
    assert second.cancel()
    engine.open.set()
    wait([first, third], SECONDS)
    assert engine.runs == [[0], [2]]
    lined_up.close()


def test_closing_finishes_what_is_lined_up(engine: Engine) -> None:
    lined_up = batcher(engine, size=2, delay=SECONDS * 10)
    futures = [lined_up.submit(image(value)) for value in (1, 2, 3)]
    engine.open.set()
    lined_up.close()
    assert all(future.done() for future in futures)
    with pytest.raises(EngineError, match="closed"):
        lined_up.submit(image(4))
