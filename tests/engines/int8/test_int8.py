import logging
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from pconv_deploy.assets.network import copy_network
from pconv_deploy.assets.photos import photos
from pconv_deploy.engines.base import Traits
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.int8 import quantise as quantisation
from pconv_deploy.engines.int8.calibration import CalibrationFiles, read_calibration
from pconv_deploy.engines.int8.graph import (
    feature_convolutions,
    with_layers_exact,
    with_results_rounded,
    with_signed_codes,
)
from pconv_deploy.errors import InputError, MissingRuntimeError, ParityError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import inlined, read_graph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.images.hole_rule import MaskRule
from pconv_deploy.parity import TOLERANCES, Arrays, Tolerance

SIDE = 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a trained network: of an untrained one no precision means anything."""
    folder = tmp_path_factory.mktemp("trained")
    copy_network(folder / "compact.safetensors")
    options = ExportOptions(batch=1, size=(SIDE, SIDE))
    export_checkpoint(folder / "compact.safetensors", folder / "compact.onnx", options)
    return folder / "compact.onnx"


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve parts of the photos that come with the package."""
    folder = tmp_path_factory.mktemp("crops")
    for name, photo in photos().items():
        scaled = photo.resize((2 * SIDE, 2 * SIDE))
        for i in range(2):
            x, y = SIDE * i, SIDE * i
            scaled.crop((x, y, x + SIDE, y + SIDE)).save(folder / f"{name}{i}.png")
    return folder


def options(backend: str, folder: Path, **more: Any) -> BuildOptions:
    return BuildOptions(
        backend=backend, precision="int8", calibration=CalibrationFiles(photos=folder, **more)
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_int8_engine_looks_like_its_graph(
    trained: Path, crops: Path, tmp_path: Path, backend: str
) -> None:
    manifest = build_engine(trained, tmp_path / "x.engine", options(backend, crops))
    facts = manifest.quantisation
    assert manifest.precision == "int8"
    assert facts is not None
    assert (facts.calibrated_on, facts.held_back, facts.unusable) == (9, 3, 0)
    assert facts.psnr >= 38
    assert facts.psnr >= facts.worst_psnr
    assert facts.judged_by == "engine"
    # As the runtime says; what it gains nothing by it may leave in single precision.
    finer = sum(n for precision, n in manifest.executed.items() if precision != "int8")
    assert manifest.executed["int8"] > finer >= len(facts.kept)
    parity = manifest.engine_parity
    assert parity is not None
    assert (parity.psnr_needed, parity.level_tolerance) == (TOLERANCES["int8"].pattern_psnr, None)
    assert parity.hole_psnr is not None
    assert 28 < parity.hole_psnr < 60

    _, session = open_engine(tmp_path / "x.engine")
    exact = onnxruntime.InferenceSession(trained, providers=["CPUExecutionProvider"])
    image = np.asarray(photos()["flower"].resize((SIDE, SIDE)))[None]
    hole_mask = np.zeros((1, SIDE, SIDE), np.uint8)
    hole_mask[:, 20:40, 10:35] = 255
    inputs = {"image": image, "hole_mask": hole_mask}
    found = session.run(inputs)["filled"].astype(float)
    wanted = exact.run(["filled"], inputs)[0].astype(float)
    hole = hole_mask != 0
    squared = np.square(found - wanted)[hole].mean()
    assert 0 < squared < 255**2 / 10**3.2  # another size of the photo: 32 dB
    assert (found[~hole] == image[~hole]).all()


def test_what_loses_too_much_is_not_kept(
    trained: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Tolerance(relative=1.0, levels=64, hole_psnr=98.0)
    monkeypatch.setattr(quantisation, "TOLERANCES", {**TOLERANCES, "int8": strict})
    monkeypatch.setattr(quantisation, "_MOST_KEPT", 0.1)
    monkeypatch.setattr(quantisation, "_RANKED_BY", 1)
    with pytest.raises(ParityError, match=r"in int8 the holes of 3 .* needed 98, with .*coder"):
        build_engine(trained, tmp_path / "x.engine", options("openvino", crops))
    assert list(tmp_path.iterdir()) == []


def test_layers_are_given_back_whole(trained: Path, crops: Path) -> None:
    exported = read_graph(trained)
    model = onnx.load_from_string(inlined(exported.content))
    inputs = read_calibration(CalibrationFiles(photos=crops), exported.contract).held_back
    layers = feature_convolutions(model)
    quantised = quantised_by_hand(model, layers)
    rounded = with_results_rounded(quantised, layers, inputs)
    kinds = Counter(node.op_type for node in rounded.graph.node)
    assert kinds["QuantizeLinear"] == 2 * len(layers)
    assert not same(rounded, model, inputs[0])
    whole = with_layers_exact(rounded, model, layers)
    assert "QuantizeLinear" not in {node.op_type for node in whole.graph.node}
    assert same(whole, model, inputs[0])
    half = with_layers_exact(rounded, model, list(layers)[::2])
    kinds = Counter(node.op_type for node in half.graph.node)
    assert kinds["QuantizeLinear"] == 2 * (len(layers) - len(list(layers)[::2]))


def test_a_typed_backend_has_signed_codes_around_zero(
    trained: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = read_graph(trained)
    found = read_calibration(CalibrationFiles(photos=crops), exported.contract)
    coarse = Tolerance(relative=1.0, levels=64, hole_psnr=25.0)
    monkeypatch.setattr(quantisation, "TOLERANCES", {**TOLERANCES, "int8": coarse})
    reference = graph_run(exported.model, exported.contract, optimised=True)
    backend: Any = SimpleNamespace(
        traits=Traits(device="gpu", extra="gpu", typed=True, symmetric_codes=True),
        why_not_run=lambda: "there is no GPU",
    )
    model, facts = quantisation.quantise(
        exported.content, exported.contract, found, reference, backend, lambda _step: None
    )
    assert facts.judged_by == "graph"  # there is nothing here to run an engine
    assert 25 <= facts.psnr < 60
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = feature_convolutions(onnx.load_from_string(inlined(exported.content)))
    weights = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            codes = tensors[node.input[2]]
            assert codes.dtype == np.int8
            assert not codes.any()
            weights += node.input[0] in tensors
    assert weights == len(layers) - len(facts.kept)
    widest = [np.abs(t.astype(int)).max() for t in tensors.values() if t.dtype == np.int8]
    assert max(widest) >= 127  # nothing is kept back for processors that overflow


def test_codes_from_zero_up_become_signed() -> None:
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1001,))],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1001,))],
            [
                numpy_helper.from_array(np.array(0.02, np.float32), "s"),
                numpy_helper.from_array(np.array(0, np.uint8), "z"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    x = np.linspace(0, 0.02 * 255, 1001, dtype=np.float32)
    signed = with_signed_codes(model)
    session = onnxruntime.InferenceSession(
        signed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y = session.run(["y"], {"x": x})[0]
    step = 0.02 * 255 / 127
    assert step / 4 < np.abs(y - x).max() <= step / 2 * 1.001
    assert {t.name: t.data_type for t in signed.graph.initializer}["z"] == onnx.TensorProto.INT8


def quantised_by_hand(model: onnx.ModelProto, layers: dict[str, str]) -> onnx.ModelProto:
    """Coarsely, as for what a real quantiser would return."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for name, value in (("s", np.float32(0.1)), ("z", np.uint8(128))):
        copy.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    for node in model.graph.node:
        if node.name in layers:
            x, code, back = (f"{node.name}{end}" for end in ("", "_q", "_dq"))
            copy.graph.node.extend(
                (
                    helper.make_node(
                        "QuantizeLinear", [node.input[0], "s", "z"], [code], name=code
                    ),
                    helper.make_node("DequantizeLinear", [code, "s", "z"], [back], name=back),
                )
            )
            copy.graph.node.append(node)
            copy.graph.node[-1].input[0] = back
            assert copy.graph.node[-1].name == x
        else:
            copy.graph.node.append(node)
    return copy


def same(a: onnx.ModelProto, b: onnx.ModelProto, inputs: Arrays) -> bool:
    runs = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(["filled"], dict(inputs))[0]
        for model in (a, b)
    ]
    return bool((runs[0] == runs[1]).all())


def test_windows_that_count_known_pixels_stay_exact() -> None:
    weights = {"features": np.arange(9, dtype=np.float32), "mask": np.ones(9, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", name], [f"{name}_y"], name=f"{name}_conv")
        for name in (*weights, "computed")
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 1, 8, 8))],
        [],
        [numpy_helper.from_array(w.reshape(1, 1, 3, 3), name) for name, w in weights.items()],
    )
    assert feature_convolutions(helper.make_model(graph)) == {"features_conv": "features"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_needs_photos_and_nothing_else_does(
    trained: Path, tmp_path: Path, crops: Path, backend: str
) -> None:
    with pytest.raises(UsageError, match="at least 12 with --calibration-photos"):
        build_engine(trained, tmp_path / "x", BuildOptions(backend=backend, precision="int8"))
    files = CalibrationFiles(photos=crops)
    with pytest.raises(UsageError, match="only int8 engines are calibrated"):
        build_engine(trained, tmp_path / "x", BuildOptions(backend=backend, calibration=files))


def test_photos_that_cannot_be_used_are_passed_over(
    trained: Path, crops: Path, tmp_path: Path
) -> None:
    contract = read_graph(trained).contract
    nowhere = tmp_path / "none"
    with pytest.raises(InputError, match="none does not exist; --calibration-photos needs a fol"):
        read_calibration(CalibrationFiles(photos=nowhere), contract)
    with pytest.raises(InputError, match="none does not exist; --calibration-holes needs a folder"):
        read_calibration(CalibrationFiles(photos=crops, holes=nowhere), contract)
    with pytest.raises(InputError, match="none does not exist"):  # before the graph is looked at
        build_engine(tmp_path / "gone.onnx", tmp_path / "x", options("onnxruntime", nowhere))
    with pytest.raises(InputError, match="onnx is no folder; --calibration-photos needs a folder"):
        read_calibration(CalibrationFiles(photos=trained), contract)
    with pytest.raises(InputError, match="no pictures"):
        read_calibration(CalibrationFiles(photos=tmp_path), contract)
    (tmp_path / "broken.png").write_text("no picture")
    Image.new("RGB", (SIDE, SIDE // 2 - 1)).save(tmp_path / "small.png")
    for path in sorted(crops.iterdir())[:11]:  # of twelve
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(InputError, match=r"11 usable photos; .* at least 12; 2 passed over, such"):
        read_calibration(CalibrationFiles(photos=tmp_path), contract)
    Image.new("L", (SIDE // 2, SIDE)).save(tmp_path / "just large enough.png")
    found = read_calibration(CalibrationFiles(photos=tmp_path), contract)
    assert (len(found.calibrate), len(found.held_back)) == (9, 3)
    assert sorted(re.sub(r".*/(\w+\.png).*", r"\1", why) for why in found.unusable) == [
        "broken.png",
        "small.png",
    ]
    images = [one["image"].tobytes() for one in (*found.calibrate, *found.held_back)]
    assert len(set(images)) == 12  # nothing it is judged by was calibrated on


def test_own_holes(trained: Path, crops: Path, tmp_path: Path) -> None:
    contract = read_graph(trained).contract
    hole = np.zeros((10, 10), np.uint8)
    hole[:, :5] = 255
    Image.fromarray(hole).save(tmp_path / "left.png")
    files = CalibrationFiles(photos=crops, holes=tmp_path)
    for inputs in read_calibration(files, contract).held_back:
        assert (inputs["hole_mask"][0, :, : SIDE // 2] == 255).all()
        assert (inputs["hole_mask"][0, :, SIDE // 2 :] == 0).all()
    black = CalibrationFiles(photos=crops, holes=tmp_path, mask_rule=MaskRule("hole-black"))
    for inputs in read_calibration(black, contract).held_back:
        assert (inputs["hole_mask"][0, :, : SIDE // 2] == 0).all()


def test_nncf_not_installed(
    trained: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'pconv-deploy\[int8\]'"):
        build_engine(trained, tmp_path / "x", options("onnxruntime", crops))


def test_quantising_changes_no_log_handler(trained: Path, crops: Path) -> None:
    handler = logging.Handler()
    logging.getLogger("nncf").addHandler(handler)
    try:
        build_engine(trained, trained.with_name("quiet.engine"), options("onnxruntime", crops))
    finally:
        logging.getLogger("nncf").removeHandler(handler)
    assert handler.level == logging.NOTSET
