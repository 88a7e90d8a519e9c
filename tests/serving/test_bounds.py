"""Overload, slow clients, clients that leave, wrong keys: bounded, and the server goes on."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.serving import bodies, server
from tests.serving.live import (
    BOUNDARY,
    SECONDS,
    Answer,
    Held,
    ask,
    encoded,
    fill,
    form,
    serving,
    until,
    waiting_requests,
)

Photo = Callable[..., NDArray[np.uint8]]
Address = tuple[str, int]


def test_a_full_queue_answers_at_once(held: Held, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo()), encoded(box())
    with serving({"tiny": held}, max_queue=2) as address, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(fill, address, image, hole_mask) for _ in range(3)]
        until(lambda: waiting_requests(address) == 3)
        refused = fill(address, image, hole_mask)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "3 images wait for tiny already" in refused.json["error"]
        held.open.set()
        assert [future.result(SECONDS).status for future in accepted] == [200] * 3
        assert fill(address, image, hole_mask).status == 200


def test_all_that_was_accepted_is_answered_before_the_end(
    held: Held, photo: Photo, box: Photo
) -> None:
    image, hole_mask = encoded(photo()), encoded(box())
    with ThreadPoolExecutor(4) as clients:
        with serving({"tiny": held}) as address:
            waiting: list[Future[Answer]] = [
                clients.submit(fill, address, image, hole_mask) for _ in range(4)
            ]
            until(lambda: waiting_requests(address) == 4)
            threading.Timer(0.3, held.open.set).start()
        assert [future.result(SECONDS).status for future in waiting] == [200] * 4
    assert held.runs == [1] * 4


def test_a_client_that_leaves_costs_no_run(held: Held, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo()), encoded(box())
    with serving({"tiny": held}, max_queue=20) as address, ThreadPoolExecutor(4) as clients:
        # As many as may hold decoded pictures at a time.
        first = [clients.submit(fill, address, image, hole_mask) for _ in range(4)]
        assert held.begun.acquire(timeout=SECONDS)
        until(lambda: waiting_requests(address) == 4)
        gone = [sent(address, image, hole_mask) for _ in range(3)]
        until(lambda: waiting_requests(address) == 7)
        for connection in gone:
            connection.close()
        held.open.set()
        assert [future.result(SECONDS).status for future in first] == [200] * 4
        until(lambda: waiting_requests(address) == 0)
        assert sum(held.runs) == 4


def sent(address: Address, image: bytes, hole_mask: bytes) -> socket.socket:
    """A whole request, of which nobody has read the answer."""
    connection = socket.create_connection(address, timeout=SECONDS)
    body = form({"image": ("a.png", image), "mask": ("b.png", hole_mask)}, {})
    connection.sendall(head(len(body)) + body)
    return connection


def head(length: int, path: str = "/v1/models/tiny/fill") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()


def test_a_body_that_comes_too_slowly(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_GRACE", 0.3)
    with socket.create_connection(address, timeout=SECONDS) as slow:
        slow.sendall(head(10_000) + b"--")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert ask(address, "/v1/models").status == 200


def test_a_head_that_comes_too_slowly(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.3)
    with serving({"tiny": engine}) as address:
        with socket.create_connection(address, timeout=SECONDS) as silent:
            assert left_by_server(silent)
        with socket.create_connection(address, timeout=SECONDS) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n")
            assert left_by_server(slow)
        assert ask(address, "/v1/models").status == 200


def left_by_server(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_client_that_reads_no_answer(
    engine: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is given up, though its answer is larger than any buffer between."""
    monkeypatch.setattr(server, "_UNREAD_MS", 300)
    image = encoded(photo(1600, 1600))
    mask = encoded(np.zeros((1600, 1600), np.uint8))
    with serving({"tiny": engine}) as address:
        before = open_files()
        with socket.create_connection(address, timeout=SECONDS) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = form({"image": ("a.png", image), "mask": ("b.png", mask)}, {})
            lazy.sendall(head(len(body)) + body)
            until(lambda: open_files() > before + 1)  # ours, and the server's end of it
            until(lambda: open_files() == before + 1)
        assert ask(address, "/v1/models").status == 200


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_part_of_an_answer_waits_for_the_client() -> None:
    """The system would hold the second packet back until the first is confirmed, some 40 ms."""
    with server.listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname()[:2], timeout=SECONDS)
        with client, listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_head_that_is_too_large(address: Address) -> None:
    with socket.create_connection(address, timeout=SECONDS) as greedy:
        greedy.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(4000):
                greedy.sendall(f"X-{number}: {'x' * 100}\r\n".encode())
        with contextlib.suppress(ConnectionError):
            assert greedy.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask(address, "/v1/models").status == 200


def test_half_a_body_leaves_nothing_behind(address: Address, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo()), encoded(box())
    fill(address, image, hole_mask)
    before = open_files()
    for _ in range(20):
        with socket.create_connection(address, timeout=SECONDS) as leaving:
            leaving.sendall(head(10_000) + b"--" + BOUNDARY.encode())
    until(lambda: open_files() <= before)
    assert fill(address, image, hole_mask).status == 200


@pytest.fixture(scope="module")
def locked(engine: Path) -> Iterator[Address]:
    with serving({"tiny": engine}, api_keys=("first", "second")) as found:
        yield found


WRONG = {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}, {"X-API-Key": "firs"}
RIGHT = {"Authorization": "Bearer first"}, {"X-API-Key": "second"}


@pytest.mark.parametrize("headers", [{}, *WRONG, {"X-API-Key": "f\u00fcrst"}])
def test_wrong_keys(headers: dict[str, str], locked: Address) -> None:
    answer = fill(locked, b"photo", b"mask", headers=headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "this server needs a key" in answer.json["error"]


def test_keys(locked: Address, photo: Photo, box: Photo) -> None:
    for headers in RIGHT:
        assert fill(locked, encoded(photo()), encoded(box()), headers=headers).status == 200
    for path in ("/", "/v1/models", "/v1/examples"):  # the page needs none
        assert ask(locked, path).status == 200
