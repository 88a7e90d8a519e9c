"""What `inspect` shows of a TensorRT engine."""

import json
from pathlib import Path

import pytest

from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.errors import InputError
from tests.engines.backends.tensorrt.test_build import engine as engine  # a fixture

pytestmark = pytest.mark.usefixtures("tensorrt")
H200 = {
    "name": "NVIDIA H200",
    "compute_capability": "9.0",
    "memory": 141 << 30,
    "driver": "580.1",
    "cuda": "13.0",
}


def test_of_an_engine_that_was_built_and_never_ran(engine: Path) -> None:
    facts = inspect_file(engine)
    assert facts["GPU"] == "none was found where it was built"
    assert facts["computes in"] == (
        "fp16: as the graph it was built from is typed; the runtime was not asked"
    )
    assert facts["shapes"] == {"profile 0": "1x32x32 .. 2x64x64, tuned for 1x64x64"}
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
    facts["built_with"]["gpu"] = H200
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


def test_of_an_engine_for_other_gpus_than_the_one_it_was_built_on(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    facts["built_with"]["gpu"] = H200
    facts["not_compared"] = "without --compute-capabilities a plan is for 8.0, this is 9.0"
    path.write_text(json.dumps(facts))
    shown = inspect_file(engine)
    assert "no GPU" not in str(shown)
    assert shown["engine parity"] == (
        f"NOT compared with its graph when it was built: {facts['not_compared']}"
    )


def test_of_an_older_release_that_did_not_say_why_it_was_not_compared(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    del facts["not_compared"]
    path.write_text(json.dumps(facts))
    assert str(inspect_file(engine)["engine parity"]).endswith("could not run it")


def test_of_int8_that_the_quantised_graph_was_judged_by(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text()) | {"precision": "int8"}
    facts["quantisation"] = {
        "calibrated_on": 13,
        "held_back": 4,
        "unusable": 0,
        "psnr": 41.25,
        "worst_psnr": 39.0,
        "kept": ["encoder.0"],
        "judged_by": "graph",
    }
    path.write_text(json.dumps(facts))
    assert inspect_file(engine)["computes in"] == (
        "int8: as the graph it was built from is typed; the runtime was not asked; in single "
        "precision: encoder.0; calibrated on 13 photos; 41.2 dB in the holes of 4 others, filled "
        "by the quantised graph (the engine itself has not run)"
    )


def test_of_an_older_release_that_built_a_profile_twice(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    for place in (facts["plan"], facts["plan"]["options"]):
        place["profiles"] *= 2
    path.write_text(json.dumps(facts))
    shapes = inspect_file(engine)["shapes"]
    assert isinstance(shapes, dict)
    assert list(shapes) == ["profile 0", "profile 1"]
