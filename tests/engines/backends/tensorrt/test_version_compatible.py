"""A plan for later releases too, built by NVIDIA's builder; it has not run.

Such a plan carries a runtime of its own, which the builder looks for in the folders that
LD_LIBRARY_PATH names: only a process that begins with it set can be tested.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from pconv_deploy.engines.base import Built
from tests.engines.backends.tensorrt.forwarding import find_package

BUILD = """
import sys
from pathlib import Path

import msgspec

from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.graphs.file import read_graph
from tests.engines.backends.tensorrt.conftest import SMALL
from tests.engines.backends.tensorrt.forwarding import install

graph, folder = map(Path, sys.argv[1:])
install(folder)
exported = read_graph(graph)
options = TensorRtOptions(profiles=(SMALL,), version_compatible=True)
facts = TensorRtBackend(options=options).build(
    exported.model.SerializeToString(), exported.contract, "fp32", folder
)
(folder / "facts.json").write_bytes(msgspec.json.encode(facts))
"""


def test_a_version_compatible_plan_carries_the_lean_runtime(graph: Path, tmp_path: Path) -> None:
    (lean,) = find_package("tensorrt_lean_libs").glob("libnvinfer_lean.so.*")
    # TensorRT for RTX, whose builder it is, looks for its own major release.
    (tmp_path / "libnvinfer_lean.so.1").symlink_to(lean)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, graph, tmp_path],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = msgspec.json.decode((tmp_path / "facts.json").read_bytes(), type=Built)
    assert facts.later_releases
    plan = (tmp_path / "engine.plan").read_bytes()
    assert lean.read_bytes()[:4096] in plan
    assert len(plan) > lean.stat().st_size
