"""What `inspect` shows of a TensorRT engine."""

import json
from pathlib import Path

import pytest

from pconv_deploy.errors import InputError
from pconv_deploy.inspection import inspect_file
from tests.engines.tensorrt.test_build import engine as engine  # a fixture

pytestmark = pytest.mark.usefixtures("tensorrt")


def test_of_an_engine_that_was_built_and_never_ran(engine: Path) -> None:
    facts = inspect_file(engine)
    assert facts["GPU"] == "none was found where it was built"
    assert facts["computes in"] == (
        "fp16: as the graph it was built from is typed; the runtime was not asked"
    )
    assert facts["shapes"] == {"profile 0": "1x32x32 .. 2x64x64, fastest at 1x64x64"}
    assert facts["options"] == "TensorRT's usual ones"
    assert facts["layers"] == "not known: it was not loaded where it was built"
    assert facts["engine parity"] == (
        "NOT compared with its graph when it was built: "
        "no NVIDIA driver is installed (CUDA finds no libcuda.so.1)"
    )
    with pytest.raises(InputError, match=rf"file of an engine. See: pconv-deploy inspect {engine}"):
        inspect_file(engine / "engine.plan")


def test_of_an_engine_that_was_built_on_a_gpu(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    facts["built_with"]["gpu"] = {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "memory": 141 << 30,
        "driver": "580.1",
        "cuda": "13.0",
    }
    facts["plan"]["options"] |= {"workspace": 64, "tf32": True}
    facts["plan"]["layers"] = {
        "count": 40,
        "reformats": 2,
        "convolutions": {"fp16": 1, "fp32": 17},
        "work": {"fp16": 0.06, "fp32": 0.94},
    }
    facts["plan"]["notes"] = ["2 of 40 layers only move numbers", "and so on"]
    path.write_text(json.dumps(facts))
    shown = inspect_file(engine)
    assert shown["GPU"] == (
        "NVIDIA H200, compute capability 9.0, 144,384 MiB, driver 580.1 for CUDA 13.0"
    )
    assert shown["options"] == "--workspace 64 --tf32"
    layers = shown["layers"]
    assert isinstance(layers, dict)
    assert layers["convolutions"] == "1 in fp16, 17 in fp32"
    assert layers["their work"] == "6% in fp16, 94% in fp32"
    assert shown["notes"] == "2 of 40 layers only move numbers; and so on"
