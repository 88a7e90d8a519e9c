"""Graphs with pairs of QuantizeLinear and DequantizeLinear around their convolutions."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pconv_deploy.graphs.run import model_run
from pconv_deploy.parity import Arrays

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def feature_convolutions(model: "onnx.ModelProto") -> dict[str, str]:
    """Node name -> weight name of the convolutions of features, in a graph without functions.

    A window of ones counts known pixels; masks stay exact.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.name: node.input[1]
        for node in model.graph.node
        if node.op_type in _CONVOLUTIONS
        and node.input[1] in weights
        and np.ptp(numpy_helper.to_array(weights[node.input[1]])) > 0
    }


def with_results_rounded(
    quantised: "onnx.ModelProto", layers: Collection[str], photos: Sequence[Arrays]
) -> "onnx.ModelProto":
    """Return a copy in which the results of `layers`, too, pass through eight bits.

    Their ranges are the extremes of the median photo, as those of what they read.
    """
    import onnx

    ranges = _result_ranges(quantised, layers, photos)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(quantised)
    del rounded.graph.node[:]
    for node in quantised.graph.node:
        mine = rounded.graph.node.add()
        mine.CopyFrom(node)
        if node.name in ranges:
            result, exact, code = (f"{node.output[0]}{end}" for end in ("", "_exact", "_code"))
            mine.output[0] = exact
            low, high = ranges[node.name]
            scale = np.array(max((high - low) / 255, 1e-12), np.float32)
            zero = np.array(round(-low / float(scale)), np.uint8)
            grid = (f"{result}_scale", f"{result}_zero")
            for name, value in ((grid[0], scale), (grid[1], zero)):
                rounded.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            make = onnx.helper.make_node
            rounded.graph.node.extend(
                (
                    make("QuantizeLinear", [exact, *grid], [code], name=f"{code}_q"),
                    make("DequantizeLinear", [code, *grid], [result], name=f"{code}_dq"),
                )
            )
    return rounded


def _result_ranges(
    model: "onnx.ModelProto", layers: Collection[str], photos: Sequence[Arrays]
) -> dict[str, tuple[float, float]]:
    """Lowest and highest result of each layer, medians over the photos; 0 lies between."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    results = {node.name: node.output[0] for node in model.graph.node if node.name in layers}
    for result in results.values():
        for kind in ("ReduceMin", "ReduceMax"):
            name = f"{result}_{kind}"
            watched.graph.node.append(
                onnx.helper.make_node(kind, [result], [name], name=name, keepdims=0)
            )
            watched.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ())
            )
    run = model_run(watched, optimised=True)
    seen = [run(inputs) for inputs in photos]

    def median(result: str, kind: str) -> float:
        return float(np.median([outputs[f"{result}_{kind}"] for outputs in seen]))

    return {
        name: (min(0.0, median(result, "ReduceMin")), max(0.0, median(result, "ReduceMax")))
        for name, result in results.items()
    }


def with_signed_codes(quantised: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy whose codes 0 to 255 are 0 to 127, and twice as coarse.

    All zero points are 0 already, and what is below 0 has signed codes.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(quantised)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    grids = {
        tuple(node.input[1:3])
        for node in copy.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and tensors[node.input[2]].data_type == onnx.TensorProto.UINT8
    }
    for scale, zero in grids:
        values = onnx.numpy_helper.to_array(tensors[zero])
        assert not values.any(), "codes around another zero"
        coarser = onnx.numpy_helper.to_array(tensors[scale]) * np.float32(255 / 127)
        for name, changed in ((scale, coarser), (zero, values.astype(np.int8))):
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(changed, name))
    for value in [v for v in copy.graph.value_info if _is_bytes(v)]:
        copy.graph.value_info.remove(value)
    return copy


def _is_bytes(value: "onnx.ValueInfoProto") -> bool:
    import onnx

    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def with_layers_exact(
    quantised: "onnx.ModelProto", model: "onnx.ModelProto", exact: Collection[str]
) -> "onnx.ModelProto":
    """Return a copy in which the nodes `exact` read and give what they do in `model`."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(quantised)
    before = {node.name: node for node in model.graph.node if node.name in exact}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    there = {tensor.name for tensor in copy.graph.initializer}
    replaced = {result for node in before.values() for result in node.output}
    for node in [n for n in copy.graph.node if not replaced.isdisjoint(n.output)]:
        if node.name not in before:
            copy.graph.node.remove(node)  # it rounded the result
    for node in copy.graph.node:
        if node.name in before:
            node.CopyFrom(before[node.name])
            missing = [weights[n] for n in node.input if n in weights and n not in there]
            copy.graph.initializer.extend(missing)
    _drop_unread(copy)
    return copy


def _drop_unread(model: "onnx.ModelProto") -> None:
    """Remove unused nodes and weights, in place."""
    while True:
        read = {name for node in model.graph.node for name in node.input}
        read |= {value.name for value in model.graph.output}
        dead = [node for node in model.graph.node if read.isdisjoint(node.output)]
        for node in dead:
            model.graph.node.remove(node)
        if not dead:
            break
    for tensor in [t for t in model.graph.initializer if t.name not in read]:
        model.graph.initializer.remove(tensor)


def quantised_convolutions(model: "onnx.ModelProto") -> frozenset[str]:
    """Return the names of the convolutions whose feature and weights both come as codes."""
    codes = {
        result
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for result in node.output
    }
    return frozenset(
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose") and {*node.input[:2]} <= codes
    )
