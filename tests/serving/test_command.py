"""`pconv-deploy serve` as a process: its address, its signals, and how it refuses."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.live import SECONDS, ask, encoded, fill, until

Photo = Callable[..., NDArray[np.uint8]]


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    command = [sys.executable, "-m", "pconv_deploy", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://([\d.]+):(\d+)/", line):
                yield process, (found[1], int(found[2]))
                return
        _, complaint = process.communicate(timeout=SECONDS)
        raise AssertionError(complaint)
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def accepted(address: tuple[str, int]) -> int:
    return int(ask(address, "/v1/models").json["models"][0]["accepted"])


def test_sigterm_answers_what_was_accepted(engine: Path, photo: Photo, box: Photo) -> None:
    """Photos large enough that several wait when it comes."""
    image, hole_mask = encoded(photo(900, 1200)), encoded(box(900, 1200))
    with served(engine, "--threads", "1") as (process, address), ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(fill, address, image, hole_mask) for _ in range(6)]
        until(lambda: accepted(address) >= 5)
        in_hand = accepted(address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 143
        answered = [future for future in waiting if future.exception() is None]
        assert len(answered) >= in_hand
        assert {future.result().status for future in answered} == {200}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_a_second_signal_ends_it_at_once(engine: Path, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo(2400, 3000)), encoded(box(2400, 3000))
    with served(engine, "--threads", "1") as (process, address), ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(fill, address, image, hole_mask) for _ in range(6)]
        until(lambda: accepted(address) == 6)
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)  # a second one within a second is taken for the same request
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert sum(future.exception() is not None for future in waiting) >= 1


def refused(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pconv_deploy", "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


def test_a_port_that_is_taken(engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, message = refused(engine, "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in message
    assert "--port" in message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.engine"], 5, "none.engine"),
        (["a=x.engine", "a=y.engine"], 2, "found two engines of the name a"),
        (["a b=x.engine"], 2, "found 'a b' as the name of an engine"),
        (["x.engine", "--host", "nowhere.invalid"], 2, "cannot listen on nowhere.invalid"),
        (["x.engine", "--api-key-file", "keys"], 3, "found no key in keys"),
        (["x.engine", "--api-key-file", "none"], 3, "none: No such file"),
    ],
)
def test_refusals(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("\n \n")
    found, told = refused(*arguments, "--port", 0)
    assert (found, message in told) == (code, True), told


def test_a_host_that_others_reach_is_noted(engine: Path) -> None:
    with served(engine, "--host", "0.0.0.0") as (process, address):
        assert ask(address, "/v1/models").status == 200
        process.terminate()
        assert process.wait(SECONDS) == 143
        assert process.stderr is not None
        assert "--api-key-file asks for a key" in " ".join(process.stderr.read().split())


def test_a_killed_server_leaves_nothing_behind(
    engine: Path, photo: Photo, box: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    image, hole_mask = encoded(photo(900, 1200)), encoded(box(900, 1200))
    with served(engine) as (process, address), ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(fill, address, image, hole_mask) for _ in range(2)]
        until(lambda: accepted(address) == 2)
        process.kill()
        process.wait(SECONDS)
        assert all(isinstance(future.exception(), OSError | HTTPException) for future in waiting)
    assert list(tmp_path.rglob("*")) == []
