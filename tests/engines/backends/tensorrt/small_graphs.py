"""Graphs of one node, or of a few, from x to y."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F, H, B, U8, I64 = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16),
    *(TensorProto.UINT8, TensorProto.INT64),
)
IMAGE = (1, 4, 16, 16)
RNG = np.random.default_rng(0)


def longs(*values: int) -> Any:
    return np.array(values, np.int64)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def small(
    *nodes: onnx.NodeProto,
    x: tuple[int, tuple[Any, ...]] = (F, IMAGE),
    y: int = F,
    opset: int = 19,
    more: Mapping[str, tuple[int, tuple[Any, ...]]] | None = None,
    **constants: Any,
) -> onnx.ModelProto:
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        for name, value in constants.items()
    ]
    inputs = {"x": x, **(more or {})}
    body = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info("y", y, None)],
        tensors,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if any(node.domain for node in nodes):
        model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    return model


def the(operator: str, reads: str, gives: str = "y", **attributes: Any) -> onnx.NodeProto:
    inputs = [name.strip("-") for name in reads.split()]
    return helper.make_node(operator, inputs, gives.split(), name="the_node", **attributes)


def other(operator: str, reads: str, gives: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, reads.split(), gives.split(), name="other", **attributes)


def cast(reads: str, gives: str, to: int) -> onnx.NodeProto:
    return other("Cast", reads, gives, to=to)


def bf16(*shape: int) -> onnx.TensorProto:
    return helper.make_tensor("w", B, shape, normal(*shape).ravel())


def quantised(codes: type, zero: int, scale: float) -> onnx.ModelProto:
    return small(
        the("QuantizeLinear", "x s z", "q"),
        other("DequantizeLinear", "q s z", "y"),
        s=np.array(scale, np.float32),
        z=np.array(zero, codes),
    )


def resized(**attributes: Any) -> onnx.ModelProto:
    scales = np.array([1, 1, 2, 2], np.float32)
    return small(the("Resize", "x - s", **attributes), s=scales)


def padded(*pads: int, **attributes: Any) -> onnx.ModelProto:
    return small(the("Pad", "x p", **attributes), p=longs(*pads))


def pooled(operator: str = "AveragePool", x: tuple[Any, ...] = IMAGE, **k: Any) -> onnx.ModelProto:
    return small(the(operator, "x", **{"kernel_shape": [3, 3], **k}), x=(F, x))


def shaped(node: onnx.NodeProto, length: int = 4, **constants: Any) -> onnx.ModelProto:
    """`node` reads a shape out of the values of an input."""
    return small(cast("z", "shape", I64), node, more={"z": (F, (length,))}, **constants)


def convolved(operator: str, *window: int, x: int = F, **attributes: Any) -> onnx.ModelProto:
    weights = bf16(*window) if x == B else normal(*window)
    return small(the(operator, "x w", **attributes), x=(x, IMAGE), y=x, opset=22, w=weights)


def quantised_convolution(operator: str = "Conv") -> onnx.ModelProto:
    """Symmetric, with a scale for each output channel."""
    transposed = operator == "ConvTranspose"
    weights = RNG.integers(-127, 128, (4, 8, 3, 3) if transposed else (8, 4, 3, 3))
    return small(
        other("QuantizeLinear", "x s z", "q"),
        other("DequantizeLinear", "q s z", "d"),
        other("DequantizeLinear", "w v u", "e", axis=int(transposed)),
        the(operator, "d e"),
        s=np.array(0.1, np.float32),
        z=np.array(0, np.int8),
        w=weights.astype(np.int8),
        v=np.full(8, 0.01, np.float32),
        u=np.zeros(8, np.int8),
    )
