"""Small graphs written as text; what one rewrite says and does of them; what they compute."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from pconv_deploy.engines.lowering.arrangement import passes_of
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.export.rewrites.pipeline import REWRITES
from pconv_deploy.graphs.functions import PartialConv2d, Renormalise
from pconv_deploy.graphs.passes import GraphPass, Site, Step, run_passes

LOWERING = passes_of(
    Arrangement(
        upsampling=("interleaved",), narrow_input=True, narrow_output=True, fused_epilogue=True
    )
)
Array = NDArray[Any]
Feeds = dict[str, Array]

IMAGE = "float[N,3,H,W] x, float[N,1,H,W] hole_mask"
# The entrance of every graph of ours: what is 0 in hole_mask is known.
KNOWN = """
    zero = Constant <value_float = 0.0> ()
    is_known = Equal (hole_mask, zero)
    known = Cast <to = 1> (is_known)
"""
NEAREST = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def graph(inputs: str, outputs: str, nodes: str, **weights: Array) -> onnx.ModelProto:
    """Read a graph in ONNX's own text; weights are its initializers, in single precision."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "pconv_deploy" : 1]>'
        f"g ({inputs}) => ({outputs}) {{ {nodes} }}"
    )
    for name, values in weights.items():
        kind = values.dtype if values.dtype.kind != "f" else np.dtype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(kind), name))
    used = {node.op_type for node in model.graph.node if node.domain == "pconv_deploy"}
    model.functions.extend(
        f.to_function_proto() for f in (PartialConv2d, Renormalise) if f.name in used
    )
    if not used:
        del model.opset_import[1]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def freed(model: onnx.ModelProto, name: str) -> Feeds:
    """Make a weight an input, so that it is no longer constant; feed it what it was."""
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(name, weight.data_type, weight.dims)
    )
    model.graph.initializer.remove(weight)
    return {name: numpy_helper.to_array(weight)}


def partial(
    results: str,
    operands: str,
    weight: Array,
    *,
    mask_channels: int,
    name: str = "layer",
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (1, 1, 1, 1),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> str:
    """Write a `PartialConv2d`; its mask has one channel or those of x."""
    window = [mask_channels, *weight.shape[2:]]
    kernel = [1 if mask_channels == 1 else weight.shape[0], *window]
    return (
        f"[{name}] {results} = pconv_deploy.PartialConv2d <kernel_shape = {window[1:]}, "
        f"strides = {list(strides)}, pads = {list(pads)}, dilations = {list(dilations)}, "
        f"group = {group}, mask_kernel = {kernel}, area = {float(np.prod(window))}> ({operands})\n"
    )


def repeated(result: str, mask: str, channels: int) -> str:
    """Write that a mask of one channel is repeated."""
    return (
        f"{result}_shape = Constant <value_ints = [1, {channels}, 1, 1]> ()\n"
        f"{result} = Expand ({mask}, {result}_shape)\n"
    )


def collapsed(results: str, x: str, share: str, weight: str = "w", bias: str = "b") -> str:
    """Write what `collapse-masks` makes of a 3x3 layer."""
    y = results.split(",")[0]
    return (
        f"[{y}_conv] {y}_w = Conv <pads = [1, 1, 1, 1]> ({x}, {weight})\n"
        f"{y}_c = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>"
        f" ({share})\n"
        f"[{y}_ratio] {results} = pconv_deploy.Renormalise ({y}_w, {y}_c, {bias})\n"
    )


def weights(rng: np.random.Generator, *shape: int) -> Array:
    scaled: Array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return scaled.astype(np.float32)


def holes(height: int, width: int, seed: int = 0) -> dict[str, Array]:
    """Hole masks (1, 1, H, W) of every kind."""
    rng = np.random.default_rng(seed)
    cells = rng.random((height // 2 + 1, width // 2 + 1)) < 0.5
    irregular = np.kron(cells, np.ones((2, 2)))[:height, :width]
    one = np.zeros((height, width))
    one[height // 2, width // 3] = 1
    kinds = {"irregular": irregular, "none": 0 * one, "all": 0 * one + 1}
    kinds |= {"one pixel": one, "all but one": 1 - one}
    return {name: hole[None, None].astype(np.float32) for name, hole in kinds.items()}


def photos(batch: int, height: int, width: int, channels: int = 3) -> list[Feeds]:
    """One input of each kind of hole; the first is a batch of several. Holes hold anything."""
    rng = np.random.default_rng(height * width)
    kinds = list(holes(height, width).values())
    batches = [np.concatenate([holes(height, width, s)["irregular"] for s in range(batch)]), *kinds]
    return [
        {
            "x": rng.standard_normal((len(m), channels, height, width)).astype(np.float32) * 3,
            "hole_mask": m,
        }
        for m in batches
    ]


def run(model: onnx.ModelProto, feeds: Feeds, *, optimised: bool = False) -> list[Array]:
    """Outputs in ONNX Runtime, node by node if not optimised."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def rewritten(
    model: onnx.ModelProto, passes: Sequence[GraphPass]
) -> Iterator[tuple[Step, onnx.ModelProto]]:
    """Apply passes in turn to a copy; yield each step with the model after it."""
    edited = ir.serde.deserialize_model(model)
    for step in run_passes(edited, passes):
        yield step, ir.serde.serialize_model(edited)


@dataclass(frozen=True)
class Outcome:
    """A graph before and after one rewrite."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    sites: tuple[Site, ...]

    @property
    def nodes(self) -> Counter[str]:
        return Counter(node.op_type for node in self.after.graph.node)

    @property
    def reasons(self) -> list[str | None]:
        return [site.refused for site in self.sites]


def after(name: str, model: onnx.ModelProto) -> Outcome:
    """Apply one pass by its name as the pipelines do."""
    (rewrite,) = (r for r in (*REWRITES, *LOWERING) if r.name == name)
    ((step, model_after),) = rewritten(model, [rewrite])
    onnx.checker.check_model(model_after)
    return Outcome(model, model_after, step.sites)


def same(before: onnx.ModelProto, other: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Both compute the same for every input, within rounding; masks exactly."""
    assert [o.name for o in before.graph.output] == [o.name for o in other.graph.output]
    for inputs in feeds:
        for expected, *found in zip(
            run(before, inputs),
            run(other, inputs),
            run(other, inputs, optimised=True),
            strict=True,
        ):
            for values in found:
                assert_close(values, expected)


def assert_close(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    if np.isin(expected, (0, 1)).all():
        np.testing.assert_array_equal(found, expected)
    else:
        worst = np.abs(found.astype(np.float64) - expected).max()
        assert worst <= 1e-5 * np.abs(expected).max()


def fires(
    name: str, model: onnx.ModelProto, feeds: Sequence[Feeds], places: Sequence[str]
) -> Counter[str]:
    """Fire at these places alone and change no number; what nodes there are then."""
    outcome = after(name, model)
    assert [site.place for site in outcome.sites if site.refused is None] == list(places)
    same(model, outcome.after, feeds)
    return outcome.nodes


def refuses(
    name: str, model: onnx.ModelProto, feeds: Sequence[Feeds], reason: str, place: str
) -> None:
    """Refuse at one place for this reason; the graph stays as it was."""
    outcome = after(name, model)
    assert [(site.place, site.refused) for site in outcome.sites] == [(place, reason)]
    untouched(model, outcome.after)
    same(model, outcome.after, feeds)


def untouched(before: onnx.ModelProto, model_after: onnx.ModelProto) -> None:
    nothing = GraphPass("nothing", lambda _model: ())
    ((_, expected),) = rewritten(before, [nothing])
    assert list(model_after.graph.node) == list(expected.graph.node)
    assert list(model_after.graph.initializer) == list(expected.graph.initializer)


def convolved(x: Array, weight: Array, stride: int = 1) -> Array:
    """Convolve with a square window of 2p + 1 taps padded by p, by definition."""
    size = weight.shape[2]
    edges = ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x.astype(np.float64), edges), (size, size), (2, 3)
    )
    y: Array = np.einsum("nchwij,kcij->nkhw", windows[:, :, ::stride, ::stride], weight)
    return y


def doubled_by(x: Array, weight: Array) -> Array:
    """Convolve with 4x4 taps, transposed, by definition: stride 2, padding 1.

    Each pixel adds the kernel, weighted by its value, around where it is doubled to.
    """
    n, _, height, width = x.shape
    y = np.zeros((n, weight.shape[1], 2 * height + 2, 2 * width + 2))
    for i, j in np.ndindex(height, width):
        y[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
            "nc,ckij->nkij", x[:, :, i, j].astype(np.float64), weight
        )
    return y[:, :, 1:-1, 1:-1]


def literal(
    x: Array,
    mask: Array,
    weight: Array,
    bias: Array,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (1, 1, 1, 1),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> tuple[Array, Array]:
    """Partial convolution window by window in double precision; mask' of one channel."""
    edges = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    x, mask = (np.pad(v.astype(np.float64), edges) for v in (x * mask, mask))
    outputs, inputs, *window = weight.shape
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    sides = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    y, seen = np.zeros((len(x), outputs, *sides)), np.zeros((len(x), 1, *sides))
    for n, k, i, j in np.ndindex(len(x), outputs, *sides):
        rows = slice(i * strides[0], i * strides[0] + reach[0], dilations[0])
        columns = slice(j * strides[1], j * strides[1] + reach[1], dilations[1])
        under = mask[n, :, rows, columns]
        first = k // (outputs // group) * inputs
        if under.sum() > 0:
            taps = x[n, first : first + inputs, rows, columns] * weight[k]
            y[n, k, i, j] = taps.sum() * under.size / under.sum() + bias[k]
            seen[n, 0, i, j] = 1
    return y, seen
