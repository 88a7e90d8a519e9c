"""`pconv-deploy serve` as a process: its address, its signals, and how it refuses."""

import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.conftest import Run
from tests.processes import start
from tests.serving.live import SECONDS, encoded, fill, until, waiting_requests

Photo = Callable[..., NDArray[np.uint8]]


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    process = start("serve", "--port", 0, *arguments)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://([\d.]+):(\d+)/", line):
                yield process, (found[1], int(found[2]))
                return
        raise AssertionError(process.communicate(timeout=SECONDS)[1])
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def test_sigterm_answers_what_was_accepted(engine: Path, photo: Photo, box: Photo) -> None:
    """Photos large enough that several wait when it comes."""
    image, hole_mask = encoded(photo(900, 1200)), encoded(box(900, 1200))
    options = engine, "--threads", "1", "--host", "0.0.0.0"
    with served(*options) as (process, address), ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(fill, address, image, hole_mask) for _ in range(6)]
        until(lambda: waiting_requests(address) >= 5)
        in_hand = waiting_requests(address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 143
        answered = [future for future in waiting if future.exception() is None]
        assert len(answered) >= in_hand
        assert {future.result().status for future in answered} == {200}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert process.stderr is not None
        assert "--api-key-file asks for a key" in process.stderr.read()


def test_a_second_signal_ends_it_at_once_and_leaves_nothing_behind(
    engine: Path, photo: Photo, box: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    image, hole_mask = encoded(photo(2400, 3000)), encoded(box(2400, 3000))
    with served(engine, "--threads", "1") as (process, address), ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(fill, address, image, hole_mask) for _ in range(6)]
        until(lambda: waiting_requests(address) == 6)
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)  # a second one within a second is taken for the same request
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        failures = [error for future in waiting if (error := future.exception())]
        assert failures
        assert all(isinstance(error, OSError | HTTPException) for error in failures)
    assert list(tmp_path.rglob("*")) == []


def test_a_port_that_is_taken(run: Run, engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("serve", engine, "--port", port)
    assert result.code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in result.err
    assert "--port" in result.err


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
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("\n \n")
    result = run("serve", *arguments, "--port", 0)
    assert (result.code, message in result.err) == (code, True), result.err
