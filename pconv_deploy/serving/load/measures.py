"""What is measured: a long mixed load, and what serving adds to an engine."""

import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from pconv_deploy.errors import EngineError
from pconv_deploy.serving.load.clients import Tally, run_clients
from pconv_deploy.serving.load.exchanges import Exchange
from pconv_deploy.serving.load.processes import Bare, Served

_PAUSE = 0.2  # seconds before each turn: threads of the one before still spin
_SAMPLES = 40  # of the server's memory, over a mixed load
_CLOSED = 10.0  # seconds that the server has to see that connections were closed


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of mixed sizes and kinds.

    statuses         of HTTP; 0: the connection broke
    wrong            answers that differ from `Inpainter`'s
    p50, p90, p99    milliseconds, with all clients at once
    rss_mib          (answers so far, resident memory of the server)
    rss_growth       from the first of `rss_mib` at 1,000 answers or more to the last, 0.01 = 1 %
    open_files_left  file descriptors beyond those before the first request
    """

    requests: int
    clients: int
    statuses: dict[str, int]
    wrong: int
    seconds: float
    p50: float
    p90: float
    p99: float
    rss_mib: tuple[tuple[int, float], ...]
    rss_growth: float | None
    open_files_left: int


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Images a second, in turns.

    clients_share     of all cores that the clients took
    of_bare           served / bare
    of_bare_less_clients  the same, had the clients taken no part of the cores
    """

    clients: int
    served: float
    bare: float
    clients_share: float
    of_bare: float
    of_bare_less_clients: float


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one image, one client, in turns; `added` is of pairs of turns."""

    rounds: int
    served_p50: float
    bare_p50: float
    added_p50: float
    added_p90: float


def mixed_load(
    server: Served, exchanges: Sequence[Exchange], *, requests: int, clients: int, limit: float
) -> Mixed:
    """Send requests in an order drawn with a seed; fewer of them if `limit` seconds are over."""
    before, begun = server.open_files, time.perf_counter()
    samples: list[tuple[int, float]] = []
    every = max(1, requests // _SAMPLES)

    def drawn() -> Iterator[Exchange]:
        rng = random.Random(0)
        for _ in range(requests):
            if time.perf_counter() > begun + limit:
                return
            yield rng.choice(exchanges)

    def sample(tally: Tally) -> None:
        done = tally.statuses.total()
        if done % every == 0:
            samples.append((done, round(server.rss_mib, 1)))

    tally = asyncio.run(run_clients(server.address, drawn(), clients, sample))
    seconds = time.perf_counter() - begun
    while server.open_files > before and time.perf_counter() < begun + seconds + _CLOSED:
        time.sleep(0.05)
    settled = [rss for done, rss in samples if done >= 1000]
    p50, p90, p99 = _percentiles(tally.seconds, 50, 90, 99)
    return Mixed(
        requests=tally.statuses.total(),
        clients=clients,
        statuses={str(status): count for status, count in sorted(tally.statuses.items())},
        wrong=tally.wrong,
        seconds=seconds,
        p50=p50,
        p90=p90,
        p99=p99,
        rss_mib=tuple(samples),
        rss_growth=settled[-1] / settled[0] - 1 if len(settled) > 1 else None,
        open_files_left=server.open_files - before,
    )


def overhead(server: Served, bare: Bare, exchange: Exchange, rounds: int) -> Overhead:
    """Time one image served and one filled without a server, in turns."""
    served_ms, bare_ms = list[float](), list[float]()

    def turns() -> Iterator[Exchange]:
        """On one connection, which is kept; the bare engine has its turn between two requests."""
        for number in range(rounds + 2):
            time.sleep(_PAUSE)
            seconds = bare.call()[1]
            if number > 1:  # the first ones warm up
                bare_ms.append(1000 * seconds)
            time.sleep(_PAUSE)
            yield exchange

    tally = asyncio.run(run_clients(server.address, turns(), 1))
    _require_right(tally)
    served_ms += [1000 * seconds for seconds in tally.seconds[2:]]
    added = [a - b for a, b in zip(served_ms, bare_ms, strict=True)]
    return Overhead(
        rounds=rounds,
        served_p50=float(np.median(served_ms)),
        bare_p50=float(np.median(bare_ms)),
        added_p50=float(np.median(added)),
        added_p90=float(np.percentile(added, 90)),
    )


def throughput(
    server: Served, bare: Bare, exchange: Exchange, *, clients: int, seconds: float, rounds: int
) -> Throughput:
    """Count images a second, served and without a server, in turns of so many seconds."""
    served = [0.0, 0.0, 0.0]  # images, seconds, seconds of a core that the clients took
    alone = [0.0, 0.0]
    for _ in range(rounds):
        time.sleep(_PAUSE)
        begun, cpu = time.perf_counter(), time.process_time()
        tally = asyncio.run(run_clients(server.address, _again(exchange, seconds), clients))
        _require_right(tally)
        turn = (len(tally.seconds), time.perf_counter() - begun, time.process_time() - cpu)
        served = [a + b for a, b in zip(served, turn, strict=True)]
        time.sleep(_PAUSE)
        alone = [a + b for a, b in zip(alone, bare.call(seconds), strict=True)]
    share = served[2] / served[1] / len(os.sched_getaffinity(0))
    per_second, bare_per_second = served[0] / served[1], alone[0] / alone[1]
    return Throughput(
        clients=clients,
        served=per_second,
        bare=bare_per_second,
        clients_share=share,
        of_bare=per_second / bare_per_second,
        of_bare_less_clients=per_second / bare_per_second / (1 - share),
    )


def _again(exchange: Exchange, seconds: float) -> Iterator[Exchange]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield exchange


def _require_right(tally: Tally) -> None:
    if tally.errors:
        statuses = ", ".join(f"{n} of status {status}" for status, n in tally.statuses.items())
        raise EngineError(
            f"found answers that are not what they must be: {statuses}, {tally.wrong} wrong"
        )


def _percentiles(seconds: Sequence[float], *which: float) -> list[float]:
    """In milliseconds; NaN where there are none."""
    if not seconds:
        return [float("nan")] * len(which)
    return [float(value) for value in 1000 * np.percentile(seconds, which)]
