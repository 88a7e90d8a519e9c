from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pconv_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from pconv_deploy.contract import Normalisation, UNetConfig
from pconv_deploy.errors import OutputError, ParityError, UsageError
from pconv_deploy.export import checkpoint_to_onnx
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.export.ends import DeploymentGraph, TensorGraph
from pconv_deploy.export.explain import counted_size
from pconv_deploy.export.trace import trace_module, trace_target
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.functions import DOMAIN
from pconv_deploy.graphs.passes import GraphPass, Site
from pconv_deploy.network.layers import PartialConv2d
from pconv_deploy.parity import parity_inputs
from tests.conftest import NORMALISATION, TINY, random_network

FIXED = ExportOptions(batch=1, size=(32, 48))


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    source = model if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def nodes_of(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for node in model.graph.node)


def test_literally_every_partial_convolution_is_one_node(checkpoint: Path, tmp_path: Path) -> None:
    result = export_checkpoint(checkpoint, tmp_path / "literal.onnx", replace(FIXED, level=0))
    assert not result.parity.failures()
    assert len(result.parity.cases) == 9
    assert result.contract.rewrites == ()
    assert session(tmp_path / "literal.onnx").get_inputs()[0].shape == [1, 32, 48, 3]
    model = read_graph(tmp_path / "literal.onnx").model
    nodes = nodes_of(model)
    assert nodes[DOMAIN, "PartialConv2d"] == 2 * TINY.levels
    assert nodes["", "Conv"] == 0
    (function,) = model.functions
    assert (function.domain, function.name) == (DOMAIN, "PartialConv2d")
    assert {node.domain for node in function.node} == {""}


def test_by_default_masks_are_collapsed_and_nothing_is_enlarged(graph: Path) -> None:
    exported = read_graph(graph)
    nodes = nodes_of(exported.model)
    assert nodes[DOMAIN, "Renormalise"] == 2 * TINY.levels
    assert nodes["", "Conv"] == 2 * TINY.levels
    assert nodes["", "ConvTranspose"] == TINY.levels
    assert nodes["", "Concat"] == nodes["", "BatchNormalization"] == 0
    # One multiplication by the mask at the entrance, none elsewhere: the others weigh masks.
    assert nodes["", "Mul"] == 1 + 2 * TINY.levels + 2
    assert nodes["", "Resize"] == TINY.levels  # of masks
    assert [(f.domain, f.name) for f in exported.model.functions] == [(DOMAIN, "Renormalise")]
    assert exported.contract.rewrites[:2] == ("collapse-masks", "fold-batch-norm")


def test_explanations_show_work_falling_and_no_error(checkpoint: Path, tmp_path: Path) -> None:
    options = replace(FIXED, without=("fold-constants",))
    result = export_checkpoint(checkpoint, tmp_path / "x.onnx", options, explain=True)
    names = [explained.step.name for explained in result.explained if explained.step]
    assert names == list(result.contract.rewrites)
    assert "fold-constants" not in names
    assert all(explained.error < 1e-5 for explained in result.explained)
    work = {e.step.name if e.step else "": e.multiply_adds for e in result.explained}
    layers = []  # outputs, channels, taps, pixels
    widths = (3, *TINY.channels)
    for i, kernel in enumerate(TINY.kernels):
        pixels = (32 >> (i + 1)) * (48 >> (i + 1))
        layers += [(widths[i + 1], widths[i], kernel**2, pixels)]
        layers += [(widths[i], widths[i + 1] + widths[i], 9, 4 * pixels)]
    features = sum(k * c * taps * pixels for k, c, taps, pixels in layers)
    assert work[""] == 2 * features
    assert work["collapse-masks"] == features
    below = [(32 >> (i + 1)) * (48 >> (i + 1)) for i in range(TINY.levels)]
    saved = sum(20 * widths[i] * widths[i + 1] * below[i] for i in range(TINY.levels))
    assert work["upsample-phases"] == features - saved


def test_the_conv_baseline_exports_as_ordinary_convolutions(tmp_path: Path) -> None:
    config = UNetConfig(channels=(6, 8), kernels=(5, 3), convolution="ordinary")
    save_checkpoint(tmp_path / "conv.safetensors", random_network(config))
    result = export_checkpoint(tmp_path / "conv.safetensors", tmp_path / "conv.onnx", FIXED)
    assert not result.parity.failures()
    exported = read_graph(tmp_path / "conv.onnx")
    nodes = nodes_of(exported.model)
    assert nodes["", "Conv"] == 2 * config.levels
    assert nodes["", "ConvTranspose"] == config.levels
    assert nodes["", "BatchNormalization"] == nodes["", "Resize"] == 0
    assert not exported.model.functions
    assert exported.contract.source.network == config


def test_the_file_says_what_it_is(graph: Path, checkpoint: Path) -> None:
    exported = read_graph(graph)
    contract = exported.contract
    assert contract.kind == "deployment"
    assert contract.size_multiple == 16
    assert contract.normalisation == NORMALISATION
    assert contract.source.file == checkpoint.name
    assert contract.source.network == TINY
    assert contract.source.training == {"steps": 0}
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*exported.model.graph.input, *exported.model.graph.output)
    }
    assert shapes == {
        "image": ["batch", "height", "width", 3],
        "hole_mask": ["batch", "height", "width"],
        "filled": ["batch", "height", "width", 3],
    }
    assert exported.parity is not None
    assert len(exported.parity.cases) == 11
    assert exported.parity.reference_error is not None
    assert exported.parity.worst_error is not None
    assert 0 < exported.parity.worst_error < 1e-5


def test_the_file_holds_no_paths_of_this_machine(graph: Path) -> None:
    content = graph.read_bytes()
    for trace in (b"site-packages", b"pconv_deploy/", str(Path.home()).encode(), b".py"):
        assert trace not in content, trace


@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 16, 80)])
def test_free_dimensions_are_free(
    graph: Path, checkpoint: Path, shape: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    hole_mask = (rng.random(shape) < 0.4).astype(np.uint8) * np.uint8(7)  # any nonzero
    (filled,) = session(graph).run(None, {"image": image, "hole_mask": hole_mask})
    with torch.no_grad():
        expected, _ = reference_graph(checkpoint)(
            torch.from_numpy(image), torch.from_numpy(hole_mask)
        )
    assert np.abs(filled.astype(int) - expected.numpy()).max() <= 1
    assert (filled[hole_mask == 0] == image[hole_mask == 0]).all()


def reference_graph(checkpoint: Path) -> DeploymentGraph:
    loaded = load_checkpoint(checkpoint)
    return DeploymentGraph(loaded.model, loaded.normalisation).eval()


def test_batch_of_one_and_free_size(tmp_path: Path) -> None:
    path, shallow = tmp_path / "one.onnx", tmp_path / "shallow.safetensors"
    save_checkpoint(shallow, random_network(UNetConfig(channels=(6,), kernels=(3,))))
    export_checkpoint(shallow, path, ExportOptions(batch=1))
    assert session(path).get_inputs()[0].shape == [1, "height", "width", 3]


def test_tensor_level(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "tensor.onnx"
    options = replace(FIXED, kind="tensor")
    result = export_checkpoint(checkpoint, path, options)
    assert result.parity.worst_level_difference is None
    case = parity_inputs(32, 48)[2]
    image = np.moveaxis(case.image, -1, 0)[None].astype(np.float32) / 255
    hole_mask = (case.hole_mask != 0).astype(np.float32)[None, None]
    (output,) = session(path).run(None, {"image": image, "hole_mask": hole_mask})
    inner = reference_graph(checkpoint).inner
    with torch.no_grad():
        expected = inner(torch.from_numpy(image), torch.from_numpy(hole_mask)).numpy()
    assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()


def test_sizes_the_network_cannot_halve(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"40x32.*multiples of 16 up to 4096, such as 16x32"):
        export_checkpoint(checkpoint, tmp_path / "x.onnx", ExportOptions(size=(40, 32)))


def test_unwritable_output(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*x\.onnx"):
        export_checkpoint(checkpoint, tmp_path / "file" / "x.onnx")


def test_a_wrong_graph_never_gets_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def subtly_wrong(model: ir.Model) -> list[Site]:
        for name, value in list(model.graph.initializers.items()):
            if name.endswith("encoder.0.conv.weight"):
                assert value.const_value is not None
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.0001))
                return [Site(name)]
        return []

    wrong = GraphPass("wrong", subtly_wrong)
    monkeypatch.setattr(checkpoint_to_onnx, "select_rewrites", lambda *_: (wrong,))
    path = tmp_path / "wrong.onnx"
    path.write_text("an older file")
    with pytest.raises(UsageError, match="already exists; pass --overwrite"):
        export_checkpoint(checkpoint, path)
    with pytest.raises(ParityError, match=r"differs from the literal network.*relative error"):
        export_checkpoint(checkpoint, path, FIXED, overwrite=True)
    assert path.read_text() == "an older file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wrong.onnx", "wrong.rejected.onnx"]


def test_wrong_ends_of_the_graph_are_found(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inverted(self: TensorGraph, image: Tensor, hole_mask: Tensor) -> Tensor:
        output: Tensor = self.network((image - self.mean) / self.std, (hole_mask != 0).float())
        return output * self.std + self.mean

    monkeypatch.setattr(TensorGraph, "forward", inverted)
    monkeypatch.setattr(checkpoint_to_onnx, "trace_target", trace_target)
    with pytest.raises(ParityError, match="differs from the literal network"):
        export_checkpoint(checkpoint, tmp_path / "x.onnx", FIXED)


def test_the_checkpoint_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "c.safetensors"
    own.write_bytes(checkpoint.read_bytes())
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        export_checkpoint(own, own)
    assert own.read_bytes() == checkpoint.read_bytes()


class Sketch(nn.Module):
    """A network of someone else: other strides, paddings, activations, three groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a = PartialConv2d(3, 6, (3, 5), stride=(2, 1), padding=(1, 2), bias=False)
        self.b = PartialConv2d(6, 4, 3, padding=1)
        self.c = PartialConv2d((6, 4, 4), 2, 1)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        a, known_a = self.a(x, known)
        b, known_b = self.b(torch.tanh(a), known_a)
        joined = torch.cat([a, b, b.abs()], dim=1)
        y, known_y = self.c(joined, torch.cat([known_a, known_b, known_b], dim=1))
        return torch.sigmoid(y), known_y


def test_any_module_made_of_the_layer_exports() -> None:
    torch.manual_seed(0)
    sketch = Sketch().eval()
    dim = torch.export.Dim
    free = {0: dim("batch"), 2: dim("rows", min=3), 3: dim("columns", min=3)}
    example = (torch.randn(2, 3, 10, 9), torch.ones(2, 1, 10, 9))
    traced = trace_module(
        sketch,
        example,
        input_names=["x", "known"],
        output_names=["y", "seen"],
        dynamic_shapes=(free, free),
    )
    model = ir.serde.serialize_model(traced)
    assert sum(node.op_type == "PartialConv2d" for node in model.graph.node) == 3
    x = torch.randn(3, 3, 21, 14)
    known = (torch.rand(3, 1, 21, 14) > 0.7).float()
    y, seen = session(model).run(None, {"x": x.numpy(), "known": known.numpy()})
    with torch.no_grad():
        expected_y, expected_seen = sketch(x, known)
    np.testing.assert_allclose(y, expected_y.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen, expected_seen.numpy())


def test_the_ends_normalise_and_composite() -> None:
    class Grey(nn.Module):
        def forward(self, image: Tensor, known: Tensor) -> Tensor:
            return image * known

    graph = DeploymentGraph(Grey(), Normalisation(mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5)))
    image = torch.full((1, 2, 2, 3), 10, dtype=torch.uint8)
    hole_mask = torch.tensor([[[0, 1], [255, 0]]], dtype=torch.uint8)
    filled, raw = graph(image, hole_mask)
    assert filled[0, 0, 0].tolist() == [10, 10, 10]
    assert filled[0, 0, 1].tolist() == [51, 102, 153]  # the network's zero is the mean colour
    torch.testing.assert_close(raw[0, :, 0, 0], torch.full((3,), 10 / 255))
    assert isinstance(graph.inner, TensorGraph)


@pytest.mark.parametrize(
    ("multiple", "side"), [(1, 512), (24, 504), (10, 510), (300, 600), (1024, 1024)]
)
def test_work_is_counted_at_a_size_that_the_graph_takes(
    graph: Path, multiple: int, side: int
) -> None:
    contract = msgspec.structs.replace(read_graph(graph).contract, size_multiple=multiple)
    assert counted_size(contract) == (side, side)
