"""Worker processes end with the work, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Two workers that never finish a task; the parent then fails, or waits to be stopped.
PROGRAM = """
import os, sys, time
from pconv_deploy.processes import spawning, worker_pool

def endless(number):
    if sys.argv[1] == "writes":
        open(f"{sys.argv[2]}/child-{os.getpid()}", "w").close()
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: the other worker writes as well
    time.sleep(600)

if __name__ == "__main__":
    if sys.argv[1] == "writes":
        open(f"{sys.argv[2]}/child-{os.getpid()}", "w").close()
    with worker_pool(2) as pool:
        with spawning():
            tasks = [pool.submit(endless, number) for number in range(4)]
        if sys.argv[1] == "fails":
            time.sleep(float(sys.argv[2]))
            sys.exit(7)
        tasks[0].result()
"""


def started(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of their own
    )
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(2)]


def all_end(workers: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_an_error_ends_them(tmp_path: Path) -> None:
    process, workers = started(tmp_path, "fails", "0.5")
    process.communicate(timeout=30)
    assert process.returncode == 7
    assert all_end(workers)


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)],
)
def test_a_signal_ends_them(tmp_path: Path, number: signal.Signals, to_all: bool) -> None:
    process, workers = started(tmp_path, "waits")
    (os.killpg if to_all else os.kill)(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert all_end(workers)


def test_a_child_ends_with_its_own_children(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    parent = (
        "import signal, sys\n"
        "from pconv_deploy.cli.signals import end_cleanly\n"
        "from pconv_deploy.processes import run_child\n"
        "end_cleanly()\n"
        f"run_child([sys.executable, {str(program)!r}, 'writes', {str(tmp_path)!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(children := list(tmp_path.glob("child-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 3
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert all_end([int(path.name.removeprefix("child-")) for path in children])
