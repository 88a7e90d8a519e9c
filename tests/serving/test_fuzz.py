"""Requests that nobody should send: each is answered as documented, or refused."""

import contextlib
import os
import random
import re
import socket
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.serving.fill_fields import FIELDS
from pconv_deploy.serving.kserve import HEAD_LENGTH
from pconv_deploy.serving.openapi import ERRORS, document
from tests.serving.live import (
    BOUNDARY,
    SECONDS,
    encoded,
    fill,
    form,
    until,
    waiting_requests,
)
from tests.serving.test_kserve_wrong import request

Address = tuple[str, int]
Photo = Callable[..., NDArray[np.uint8]]
STATUSES = {200, 405, *ERRORS} - {500}
METHODS = ["GET", "POST", "POST", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "BREW"]
PATHS = [path.replace("{model}", "tiny") for path in document()["paths"]]
VALUES = [
    "",
    "0",
    "-1",
    "1e9",
    "nan",
    "true",
    "\x00",
    "\u00e9" * 9,
    "9" * 400,
    "hole-black",
    "'\"<>",
]
HEADERS = ["Content-Encoding: gzip", "Expect: 100-continue", "Connection: close"]
HEADERS += ["Authorization: Bearer \xff", "Accept: nothing", f"X-Long: {'x' * 9000}"]


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """Some bytes changed, dropped, added or said again; or the end cut off."""
    found = bytearray(whole)
    for _ in range(rng.choice([0, 1, 1, 2, 6, 40])):
        place = rng.randrange(len(found) + 1)
        piece = rng.choice([rng.randbytes(rng.randrange(4)), found[place : place + 30]])
        found[place : place + rng.randrange(4)] = piece
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.1 else found)


class Requests:
    """Makes them, all from one seed."""

    def __init__(self, seed: int, image: bytes, hole_mask: bytes) -> None:
        self.rng = random.Random(seed)
        self._image, self._hole_mask = image, hole_mask

    def one(self) -> bytes:
        """A request whose length is told truthfully, so that an answer must come."""
        makers = [self._kserve, self._kserve_shapes, self._any, *[self._form] * 4]
        kind, body = self.rng.choice(makers)()
        is_form = any("boundary" in line for line in kind)
        method, path = "POST", "/v1/models/tiny/fill" if is_form else "/v2/models/tiny/infer"
        if self.rng.random() < 0.15:
            method, path = self.rng.choice(METHODS), self.rng.choice(PATHS)
        if self.rng.random() < 0.05:
            path += self.rng.choice(["/", "//", "/../..", "%00", "%ff", "?a=b&" * 99, "/tiny" * 99])
        lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *kind]
        if self.rng.random() < 0.05:
            lines.append(self.rng.choice(HEADERS))
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _kserve(self) -> tuple[list[str], bytes]:
        head = request(("image", [1, 6, 5, 3], 90), ("hole_mask", [1, 6, 5], 30))
        length = self.rng.choice([len(head), len(head), self.rng.randrange(999), "-1", "x", ""])
        return [f"{HEAD_LENGTH}: {length}"], damaged(self.rng, head + self.rng.randbytes(120))

    def _kserve_shapes(self) -> tuple[list[str], bytes]:
        sides = [-1, 0, 1, 1, 2, 3, 7, 200, 1 << 31, 1 << 62, 1 << 63, 10**30]
        shapes = [[self.rng.choice(sides) for _ in range(self.rng.randrange(6))] for _ in "ab"]
        sizes = [self.rng.choice([0, 1, 2, 3, 7, 12, 21, 42, 1 << 40, "3", None]) for _ in "ab"]
        datatype = self.rng.choice(["UINT8", "UINT8", "BYTES", "FP32", "INT64", ""])
        head = request(("image", shapes[0], sizes[0]), ("hole_mask", shapes[1], sizes[1]))
        head = head.replace(b"UINT8", datatype.encode())
        there = sum(size for size in sizes if isinstance(size, int) and size < 99)
        return [f"{HEAD_LENGTH}: {len(head)}"], head + self.rng.randbytes(there)

    def _form(self) -> tuple[list[str], bytes]:
        rng = self.rng
        names = rng.choice([*[("image", "mask")] * 9, ("image", "image2"), ("a", "b")])
        contents = [damaged(rng, self._image), damaged(rng, self._hole_mask)]
        rng.choice([lambda: None, contents.reverse])()
        files = dict(zip(names, (("a.png", content) for content in contents), strict=True))
        fields = {
            rng.choice([*FIELDS, "none"]): rng.choice(VALUES)
            for _ in range(rng.choice([0, 0, 0, 3]))
        }
        body = form(files, fields)
        boundary = BOUNDARY
        if rng.random() < 0.3:
            body, boundary = damaged(rng, body), rng.choice([BOUNDARY, "", '"', "x" * 300])
        return [f"Content-Type: multipart/form-data; boundary={boundary}"], body

    def _any(self) -> tuple[list[str], bytes]:
        """Any bytes, longer than what is accepted now and then."""
        size = self.rng.choice([0, 1, 100, 5000, 5000, 70_000])
        kind = self.rng.choice(["text/plain", "multipart/form-data", "application/json", "\xe9"])
        return [f"Content-Type: {kind}"], self.rng.randbytes(size)


class Client:
    """One connection, and a new one after the server closed it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=SECONDS)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def answer_to(self, whole: bytes) -> int:
        """Its status. A connection may be closed while much is sent; then it says 0."""
        try:
            self._socket.sendall(whole)
            status, closes = self._answer(has_body=not whole.startswith(b"HEAD "))
        except ConnectionError:
            status, closes = 0, True
        if closes:
            self.close()
            self._connect()
        return status

    def _answer(self, *, has_body: bool) -> tuple[int, bool]:
        line = self._file.readline()
        if not line:
            return 0, True
        found = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", line)
        assert found, line
        heads = dict(self._heads())
        if found[1] == b"100":
            return self._answer(has_body=has_body)
        length = int(heads[b"content-length"]) if b"content-length" in heads else -1
        if has_body:
            self._file.read(length)
        return int(found[1]), length < 0 or heads.get(b"connection") == b"close"

    def _heads(self) -> Iterator[tuple[bytes, bytes]]:
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            yield name.lower(), value.strip()


def test_2500_requests(small: Address, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo(12, 10)), encoded(box(12, 10))
    expected = fill(small, image, hole_mask)
    requests, client = Requests(13, image, hole_mask), Client(small)
    found: dict[int, int] = {}
    with contextlib.closing(client):
        for number in range(2500):
            whole = requests.one()
            status = client.answer_to(whole)
            assert status in STATUSES, (number, status, whole[:2000])
            found[status] = found.get(status, 0) + 1
    # None of the ways to answer was missed.
    assert {200, 400, 404, 405, 413, 415, 422} <= set(found), found
    after = fill(small, image, hole_mask)
    assert (after.status, after.body) == (200, expected.body)


def test_1000_broken_connections(small: Address, photo: Photo, box: Photo) -> None:
    """No request, half a request, lengths that are lies: what is said to it is a refusal."""
    image, hole_mask = encoded(photo(12, 10)), encoded(box(12, 10))
    expected = fill(small, image, hole_mask)
    requests = Requests(14, image, hole_mask)
    rng, before = requests.rng, len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        whole = requests.one()
        head, _, body = whole.partition(b"\r\n\r\n")
        chunked = head.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX-Was")
        broken = [
            rng.randbytes(rng.randrange(300)),
            whole[: rng.randrange(len(whole))],
            damaged(rng, head) + b"\r\n\r\n" + body,
            head.replace(b"Content-Length: ", b"Content-Length: 9") + b"\r\n\r\n" + body,
            chunked + b"\r\n\r\n" + damaged(rng, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
            whole + damaged(rng, whole),
        ][number % 6]
        for answer in answers(small, broken):
            assert int(answer) in STATUSES, (number, answer, broken[:2000])
    until(lambda: len(os.listdir("/proc/self/fd")) <= before and not waiting_requests(small))
    after = fill(small, image, hole_mask)
    assert (after.status, after.body) == (200, expected.body)


def answers(address: Address, sent: bytes) -> list[str]:
    """Statuses that came before the server saw that no more is sent."""
    received = b""
    connection = socket.create_connection(address, timeout=SECONDS)
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    assert not received or received.startswith(b"HTTP/1.1 "), received[:100]
    found = re.findall(r"^HTTP/1\.1 (\d+) ", received.decode("latin-1"), re.MULTILINE)
    return [status for status in found if status != "100"]  # "100" only says go on
