"""One process at a time, and what becomes of the others."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.locks import locked
from pconv_deploy.errors import OutputError, UsageError


def test_the_second_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with locked(path, wait=False):
        with (
            pytest.raises(UsageError, match=r"x\.engine is being built by another process"),
            locked(path, wait=False),
        ):
            pass
        with locked(tmp_path / "y.engine", wait=False):
            pass
    assert list(tmp_path.iterdir()) == []
    with locked(path, wait=False):
        pass


def test_who_waits_comes_next(tmp_path: Path) -> None:
    path, order = tmp_path / "cache", list[str]()
    started = threading.Event()

    def second() -> None:
        started.set()
        with locked(path, wait=True):
            order.append("second")

    with locked(path, wait=True):
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_many_that_wait_take_turns(tmp_path: Path) -> None:
    inside, most = 0, 0

    def take() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "x", wait=True):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_who_died_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from pconv_deploy.engines.locks import locked\n"
        f"with locked(Path({str(tmp_path / 'x')!r}), wait=False): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 9
    assert (tmp_path / ".x.lock").exists()
    with locked(tmp_path / "x", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_engine(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"

    def build_again(_step: str) -> None:
        with pytest.raises(UsageError, match=r"x\.engine is being built by another process"):
            build_engine(graph, path)
        seen.append(_step)

    seen: list[str] = []
    build_engine(
        graph, path, progress=lambda step: build_again(step) if "comparing" in step else None
    )
    assert seen
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.engine"]


def test_a_place_that_cannot_be_written(graph: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/x/y\.engine"):
        build_engine(graph, "/proc/x/y.engine")
