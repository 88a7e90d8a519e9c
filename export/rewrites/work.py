"""How many multiply-adds a graph's convolutions need."""

from math import prod

import onnx
from onnx import inliner


def multiply_adds(model: onnx.ModelProto, height: int, width: int) -> int:
    """Multiply-adds of all convolutions for one image of `height` x `width` pixels.

    Masks count too where they are convolved. Additions, poolings and copies do not.
    """
    plain = inliner.inline_local_functions(model)
    del plain.graph.value_info[:]
    free = {"batch": 1, "height": height, "width": width}
    for value in (*plain.graph.input, *plain.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in free:
                dim.dim_value = free[dim.dim_param]
    plain = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in plain.graph.initializer}
    for value in (*plain.graph.input, *plain.graph.value_info, *plain.graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return sum(_of_node(node, shapes) for node in plain.graph.node)


def _of_node(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0
    weight = shapes[node.input[1]]
    # A weight is applied once at every pixel of the side it strides over without gaps.
    pixels = shapes[node.output[0]] if node.op_type == "Conv" else shapes[node.input[0]]
    return prod(weight) * pixels[0] * prod(pixels[2:])
