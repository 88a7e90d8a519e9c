"""A signal with a Python handler must not end a process in which OpenVINO has run.

Each scenario has a process of its own: the fault is a SIGSEGV.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from pconv_deploy.engines.folder import BuildOptions, build_engine

BEGIN = """
import gc, os, signal, sys, threading, time
import numpy as np
from pconv_deploy import Inpainter
from pconv_deploy.engines.folder import BuildOptions, build_engine
engine, graph, output = sys.argv[1:]
image, hole = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
hole[9:20, 9:20] = 1
def opened():
    inpaint = Inpainter.load(engine, threads=1)
    inpaint(image, hole)
    return inpaint
def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""
END = """
gc.collect()
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
os.kill(os.getpid(), signal.SIGTERM)
deadline = time.monotonic() + 10
while not received and time.monotonic() < deadline:
    time.sleep(0.01)
print("received", len(received))
"""
SCENARIOS = {
    "closed in another thread": """
one = [opened()]
in_a_thread(lambda: one.pop().close())
""",
    "replaced while open": """
current = opened()
for _ in range(3):
    new = opened()
    current.close()
    current = new
del new
current.close()
del current
""",
    "replaced in another thread": """
one = [opened()]
def replace():
    old, one[0] = one[0], opened()
    old.close()
for _ in range(2):
    in_a_thread(replace)
one.pop().close()
""",
    "opened and closed in a thread that ends": """
in_a_thread(lambda: opened().close())
opened().close()
""",
    "built": """
build_engine(graph, output, BuildOptions(backend="openvino"))
""",
    "built in another thread while one is open": """
one = opened()
in_a_thread(lambda: build_engine(graph, output, BuildOptions(backend="openvino")))
one.close()
del one
""",
    "quantised in another thread": """
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.registry import backend_named
content, photo = open(graph, "rb").read(), {"image": image[None], "hole_mask": hole[None]}
one = opened()
in_a_thread(lambda: in_eight_bits(content, [photo], backend_named("openvino")))
""",
    "asked what the processor can do in another thread": """
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.parity import PRECISIONS
why_not = backend_named("openvino").why_not
list(map(why_not, PRECISIONS))
in_a_thread(lambda: list(map(why_not, PRECISIONS)))
""",
    "a Core of the program's own that ends": """
import openvino
mine = openvino.Core()
mine.get_property("CPU", "FULL_DEVICE_NAME")
one = opened()
del mine
one.close()
""",
    "forked, and the child left by sys.exit": """
one = opened()
child = os.fork()
if child == 0:
    one.close()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
}


@pytest.fixture(scope="module")
def openvino_engine(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "tiny.engine"
    build_engine(graph, path, BuildOptions(backend="openvino"))
    return path


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_signal_does_not_end_the_process(
    scenario: str, openvino_engine: Path, graph: Path, tmp_path: Path
) -> None:
    program = BEGIN + SCENARIOS[scenario] + END
    done = subprocess.run(
        [sys.executable, "-c", program, openvino_engine, graph, tmp_path / "built.engine"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "received 1"
