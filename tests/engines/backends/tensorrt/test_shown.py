"""What `inspect` shows of a TensorRT engine."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import describe, read_manifest
from pconv_deploy.errors import EngineError, InputError
from tests.engines.backends.tensorrt.test_build import engine as engine  # a fixture
from tests.explained import explained

pytestmark = pytest.mark.usefixtures("tensorrt")
H200 = {
    "name": "NVIDIA H200",
    "compute_capability": "9.0",
    "memory": 141 << 30,
    "driver": "580.1",
    "cuda": "13.0",
}


def told(folder: Path, **changes: Any) -> Path:
    """Let the manifest say otherwise."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_of_an_engine_that_was_built_and_never_ran(engine: Path) -> None:
    facts = inspect_file(engine)
    assert facts["GPU"] == "none was found where it was built"
    assert facts["computes in"] == (
        "fp16: as the graph it was built from is typed; the runtime was not asked"
    )
    assert facts["shapes"] == {"profile 0": "1x32x32 .. 2x64x64, tuned for 1x64x64"}
    assert facts["options"] == "TensorRT's defaults"
    assert facts["layers"] == "not known: the engine was not loaded where it was built"
    assert facts["engine parity"] == (
        "NOT compared with its graph when it was built: "
        "no NVIDIA driver is installed (CUDA finds no libcuda.so.1)"
    )
    with explained(InputError, match=rf"file of an engine\.\n  See: pconv-deploy inspect {engine}"):
        inspect_file(engine / "engine.plan")


def test_of_an_engine_that_was_built_on_a_gpu(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    facts["built_with"]["gpu"] = H200
    facts["engine"]["details"]["options"] |= {"workspace": 64, "tf32": True}
    facts["engine"]["notes"] = ["one", "and so on"]
    layers = [{"LayerType": "CaskConvolution"}, {"LayerType": "CaskConvolution"}, "a name alone"]
    report = {"graph": {"fp16": 18}, "engine": [{"Layers": layers, "Bindings": []}]}
    content = json.dumps(report).encode()
    (engine / "layers.json").write_bytes(content)
    facts["files"]["layers.json"] = msgspec.to_builtins(describe(content))
    path.write_text(json.dumps(facts))
    shown = inspect_file(engine)
    assert shown["GPU"] == (
        "NVIDIA H200, compute capability 9.0, 144,384 MiB, driver 580.1 for CUDA 13.0"
    )
    assert shown["options"] == "workspace 64, tf32"
    assert shown["layers"] == {"CaskConvolution": "2", "a name alone": "1"}
    assert shown["notes"] == "one; and so on"


def test_a_changed_file_hides_no_more_than_what_it_holds(engine: Path) -> None:
    whole = inspect_file(engine)
    (engine / "layers.json").write_bytes(b"something else")
    shown = inspect_file(engine)
    assert "layers.json has 14 bytes, was built with" in str(shown["layers"])
    assert "\n" not in str(shown["layers"])
    for fact in ("options", "build took", "shapes"):
        assert shown[fact] == whole[fact]


def test_details_that_are_damaged(engine: Path) -> None:
    with pytest.raises(EngineError, match=f"^{engine}: the manifest does not say how TensorRT"):
        inspect_file(told(engine, engine={}))


def test_of_an_engine_for_other_gpus_than_the_one_it_was_built_on(engine: Path) -> None:
    why = "without --compute-capabilities a plan is for 8.0, this is 9.0"
    shown = inspect_file(told(engine, not_compared=why))
    assert shown["engine parity"] == f"NOT compared with its graph when it was built: {why}"


def test_of_an_older_release_that_did_not_say_why_it_was_not_compared(engine: Path) -> None:
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    del facts["not_compared"]
    path.write_text(json.dumps(facts))
    assert str(inspect_file(engine)["engine parity"]).endswith("could not run it")


def test_of_int8_that_the_quantised_graph_was_judged_by(engine: Path) -> None:
    quantisation = {
        "calibrated_on": 13,
        "held_back": 4,
        "unusable": 0,
        "psnr": 41.25,
        "worst_psnr": 39.0,
        "kept": ["encoder.0"],
        "judged_by": "graph",
    }
    told(engine, precision="int8", quantisation=quantisation)
    assert inspect_file(engine)["computes in"] == (
        "int8: as the graph it was built from is typed; the runtime was not asked; kept finer "
        "than int8: encoder.0; calibrated on 13 photos; 41.2 dB in the holes of 4 others, filled "
        "by the quantised graph (the engine itself has not run)"
    )


def test_of_an_older_release(engine: Path) -> None:
    """Formats 1 and 2 said of a TensorRT engine under `plan` what `engine` says now."""
    now = read_manifest(engine)
    path = engine / "manifest.json"
    facts = json.loads(path.read_text())
    said = facts.pop("engine")
    profiles = said["profiles"] * 2  # such a release built a profile twice, if it was asked to
    layers = {"count": 40, "reformats": 2, "convolutions": {"fp16": 1}, "work": {}}
    facts |= {
        "format": 2,
        "plan": {
            "options": {**said["details"]["options"], "tf32": True, "version_compatible": True},
            "profiles": profiles,
            "build_seconds": 3.5,
            "layers": layers,
            "notes": ["a note"],
        },
    }
    path.write_text(json.dumps(facts))
    then = read_manifest(engine)
    assert then.engine.arithmetic is None  # an fp16 engine
    assert then.engine.later_releases
    assert not then.engine.weights_missing
    assert then.engine.notes == ("a note",)
    assert then.engine.profiles == now.engine.profiles * 2
    assert then.files == now.files
    shown = inspect_file(engine)
    assert shown["build took"] == "4 s"
    assert isinstance(shown["shapes"], dict)
    assert list(shown["shapes"]) == ["profile 0", "profile 1"]
    assert read_manifest(told(engine, precision="fp32")).engine.arithmetic == "tf32"
    assert read_manifest(told(engine, plan=None)).engine == Built()
    with pytest.raises(EngineError, match=r"cannot be opened: the manifest does not say how"):
        open_engine(engine)
