"""Count the multiply-adds of a graph's convolutions.

A convolution applies each of its taps once at every pixel that it makes, a transposed one at every
pixel that it reads: taps x pixels.
"""

from collections.abc import Iterable
from math import prod

import numpy as np
import onnx
from onnx import inliner

from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.run import model_run

_Shapes = dict[str, list[int]]


def multiply_adds(model: onnx.ModelProto, height: int, width: int) -> int:
    """Count the multiply-adds of all convolutions for one image of `height` x `width` pixels.

    Masks count too where they are convolved. Additions, poolings, copies and products of matrices
    do not, nor do the branches of a condition. Where sizes follow from what the graph computes, it
    is run on one black image.

    Raises:
        GraphError: it cannot be run on an image of that size.
        MissingRuntimeError: it must be run, and ONNX Runtime is not installed.
    """
    return sum(work for _, work in work_of_convolutions(model, height, width))


def work_of_convolutions(
    model: onnx.ModelProto, height: int, width: int
) -> list[tuple[onnx.NodeProto, int]]:
    """Count the multiply-adds of each convolution, as `multiply_adds`."""
    plain = _of_size(model, height, width)
    shapes = _inferred(plain)
    nodes = [node for node in plain.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    # The names of the tensors whose sizes are multiplied: taps and pixels.
    counted = [
        (node.input[1], node.output[0] if node.op_type == "Conv" else node.input[0])
        for node in nodes
    ]
    if unknown := {name for names in counted for name in names} - shapes.keys():
        try:
            shapes |= _measured(plain, sorted(unknown))
        except GraphError as error:
            raise GraphError(
                f"the work at {height}x{width} is not known: {error}. Leave out --explain, or pass "
                "--size with sides that the network takes"
            ) from error
    work = []
    for taps, pixels in counted:
        batch, _, *sides = shapes[pixels]
        work.append(prod(shapes[taps]) * batch * prod(sides))
    return list(zip(nodes, work, strict=True))


def _of_size(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    plain = inliner.inline_local_functions(model)
    del plain.graph.value_info[:]
    free = {"batch": 1, "height": height, "width": width}
    for value in (*plain.graph.input, *plain.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in free:
                dim.dim_value = free[dim.dim_param]
    return plain


def _inferred(model: onnx.ModelProto) -> _Shapes:
    """Infer shapes from the graph's inputs."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    return shapes


def _measured(model: onnx.ModelProto, names: Iterable[str]) -> _Shapes:
    """Measure shapes by running the graph on zeros."""
    shown, inputs = onnx.ModelProto(), {}
    shown.CopyFrom(model)
    del shown.graph.output[:]
    for name in names:
        shape = onnx.helper.make_tensor_value_info(f"{name}.shape", onnx.TensorProto.INT64, None)
        shown.graph.node.append(onnx.helper.make_node("Shape", [name], [shape.name]))
        shown.graph.output.append(shape)
    for value in model.graph.input:
        tensor = value.type.tensor_type
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        inputs[value.name] = np.zeros([dim.dim_value for dim in tensor.shape.dim], kind)
    found = model_run(shown, optimised=True)(inputs)
    return {name.removesuffix(".shape"): shape.tolist() for name, shape in found.items()}
