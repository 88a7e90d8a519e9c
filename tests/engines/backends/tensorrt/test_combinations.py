"""What we claim to build, NVIDIA's builder builds: every kind of graph in every precision.

The types of the parsed network are checked too, as they decide what TensorRT computes in. The
builder is that of TensorRT for RTX; none of the engines has run.
"""

import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx
import pytest

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.backend import PLAN, TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX, new_log
from pconv_deploy.engines.backends.tensorrt.network import parse
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.prepared_graph import prepare
from pconv_deploy.engines.shapes import Profile, Shape
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from pconv_deploy.graphs.half_precision import in_half_precision
from tests.checkpoints.foreign.test_exactness import FAMILIES
from tests.engines.backends.tensorrt.conftest import SMALL, Exported, Kind

HalfPrecision = Literal["fp16", "bf16"]
SHALLOW = ((4, 6), (5, 3))
DEEP = ((4, 6, 6, 7, 7, 6, 6, 5), (7, 5, 5, 3, 3, 3, 3, 3))


def build(
    model: onnx.ModelProto,
    contract: GraphContract,
    profiles: tuple[Profile, ...] = (),
    flavour: Any = TENSORRT,
) -> bytes:
    if not contract.size:
        profiles = profiles or (SMALL,)
    backend = TensorRtBackend(flavour, TensorRtOptions(profiles=profiles))
    with tempfile.TemporaryDirectory() as work:
        facts = backend.build(model.SerializeToString(), contract, "fp32", Path(work))
        assert facts.profiles
        return (Path(work) / PLAN).read_bytes()


def prepared(exported: ExportedGraph, precision: Any) -> onnx.ModelProto:
    """What `build-engine` gives to TensorRT."""
    model: onnx.ModelProto = prepare(
        TensorRtBackend(), exported, precision, None, None, lambda _: None
    ).model
    return model


def types_in(library: ModuleType, model: onnx.ModelProto) -> Counter[str]:
    """The types of the convolutions in TensorRT's network, as it has parsed them."""
    builder = library.Builder(log := new_log(library))
    parsed = parse(library, builder, log, model.SerializeToString())
    kinds = (library.LayerType.CONVOLUTION, library.LayerType.DECONVOLUTION)
    layers = [parsed.network.get_layer(i) for i in range(parsed.network.num_layers)]
    found = Counter(str(n.get_output(0).dtype).split(".")[1] for n in layers if n.type in kinds)
    ours = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
    counted = Counter({ours[name]: count for name, count in found.items()})
    assert counted == parsed.convolutions  # what is recorded of the engine
    return counted


@pytest.mark.parametrize(
    ("kind", "static"), [("deployment", False), ("deployment", True), ("tensor", False)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_kind_of_graph_in_every_precision(
    tensorrt: ModuleType, exported: Exported, precision: str, kind: Kind, static: bool
) -> None:
    subject = exported(kind, static)
    model = prepared(subject, precision)
    types = types_in(tensorrt, model)
    assert types.keys() == {precision}  # masks are counted by pooling
    assert types[precision] >= 8  # one for each layer of the network
    plan = build(model, subject.contract)
    assert len(plan) > 10_000


UPSAMPLINGS: list[tuple[Upsampling, bool]] = [
    ("transposed", True),
    ("interleaved", False),
    ("interleaved_nhwc", False),
    ("depth_to_space", False),
    ("enlarged", True),
]
FORMS = [
    Arrangement(upsampling=(upsampling,), narrow_input=switch, fused_epilogue=not switch)
    for upsampling, switch in UPSAMPLINGS
] + [Arrangement(upsampling=("transposed", "enlarged"), narrow_output=True, fused_epilogue=True)]


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.describe().replace(", ", "-"))
def test_every_form_of_a_graph(exported: Exported, form: Arrangement) -> None:
    subject = exported()
    transposed = form.upsampling[0] == "transposed"  # which it does not have in bf16
    model = in_half_precision(subject.model, "fp16" if transposed else "bf16")
    assert build(arranged(model, form, subject.contract), subject.contract)


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(
    ("level", "precision"),
    # Half precision needs what level 1 does.
    [(0, "fp32"), (1, "fp16"), (3, "fp16")],
)
def test_every_level_of_rewriting(
    exported: Exported, level: int, precision: Literal["fp32", "fp16"]
) -> None:
    subject = exported(static=True, level=level)
    model = subject.model if precision == "fp32" else in_half_precision(subject.model, precision)
    assert build(model, subject.contract)


SIZES = [
    pytest.param(((1, 16, 1024), (1, 48, 1024), (2, 64, 1024)), id="wide"),
    pytest.param(((1, 512, 16), (32, 512, 512), (32, 1024, 1024)), id="large batches"),
]


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("shapes", SIZES)
def test_sizes_and_batches(exported: Exported, shapes: tuple[Shape, Shape, Shape]) -> None:
    subject = exported()
    low, best, high = shapes
    profile = Profile(min=low, opt=best, max=high)
    assert build(prepared(subject, "fp16"), subject.contract, (profile, SMALL))


@pytest.mark.usefixtures("tensorrt")
def test_the_other_flavour(exported: Exported) -> None:
    subject = exported("deployment", static=True)
    model = prepared(subject, "fp16")
    assert build(model, subject.contract, flavour=TENSORRT_RTX).startswith(b"vtrt")


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_of_checkpoints(family: str, tmp_path: Path) -> None:
    shape = DEEP if family == "naoto0804" else SHALLOW
    source, _ = FAMILIES[family](tmp_path, shape)
    side = 1 << len(shape[0])
    path = tmp_path / "model.onnx"
    export_checkpoint(source, path, ExportOptions(batch=1, size=(side, 2 * side)))
    subject = read_graph(path)
    assert build(prepared(subject, "fp16"), subject.contract)
