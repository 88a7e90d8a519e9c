"""Clients that send one request after the other, each on a connection that is kept."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pconv_deploy.errors import EngineError
from pconv_deploy.serving.kserve import HEAD_LENGTH
from pconv_deploy.serving.load.exchanges import Exchange

_BUFFER = 4 << 20  # bytes that a connection reads ahead
_HEAD_LENGTH = HEAD_LENGTH.lower().encode()


@dataclass
class Tally:
    """What came of the requests.

    statuses  of HTTP, and how many answers had them; 0: the connection broke
    wrong     answers of status 200 that are not, to the byte, what they must be
    seconds   of each answer of status 200
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """How many requests were not answered as they must be."""
        return self.wrong + sum(n for status, n in self.statuses.items() if status != 200)


async def run_clients(
    address: tuple[str, int],
    exchanges: Iterator[Exchange],
    clients: int,
    after_each: Callable[[Tally], None] = lambda _tally: None,
) -> Tally:
    """Let clients send requests until there are no more of them.

    Args:
        address: of the server.
        exchanges: shared by the clients: each takes the next one.
        clients: how many.
        after_each: is told after each answer.

    Raises:
        EngineError: the server takes no connection.
    """
    tally = Tally()
    await asyncio.gather(*(_client(address, exchanges, tally, after_each) for _ in range(clients)))
    return tally


async def _client(
    address: tuple[str, int],
    exchanges: Iterator[Exchange],
    tally: Tally,
    after_each: Callable[[Tally], None],
) -> None:
    reader, writer = await _connected(address)
    try:
        for exchange in exchanges:
            begun = time.perf_counter()
            try:
                writer.write(exchange.request)
                await writer.drain()
                status, content = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                reader, writer = await _connected(address)
                status, content = 0, b""
            tally.statuses[status] += 1
            if status == 200:
                tally.seconds.append(time.perf_counter() - begun)
                tally.wrong += content != exchange.expected
            after_each(tally)
    finally:
        writer.close()


async def _connected(
    address: tuple[str, int],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(*address, limit=_BUFFER)
    except OSError as error:
        raise EngineError(f"the server at {address[0]}:{address[1]} is gone: {error}") from error


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and content, less the head of KServe."""
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    heads = {
        name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
    }
    body = await reader.readexactly(int(heads[b"content-length"]))
    return int(lines[0].split()[1]), body[int(heads.get(_HEAD_LENGTH, 0)) :]
