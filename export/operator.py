"""PartialConv2d as an ONNX function: one node in the graph, standard operators in its body.

    coverage = AveragePool(share), padding counted: the covered share of each window
    known    = 1 where coverage > 0, else 0
    y        = Conv(x, weight) * known / coverage + bias * known

The node's meaning is that of `pconv_deploy.layers.renormalised_conv2d`; a runtime that knows
it may compute it in its own way, all others inline the body. Operator set 18: what torch's
exporter speaks natively and every runtime reads.
"""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx.defs import OpSchema
from onnxscript import FLOAT, script
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

OPSET = 18
DOMAIN = "pconv_deploy"
DOMAIN_VERSION = 1
_DOMAIN_OPSET = Opset(DOMAIN, DOMAIN_VERSION)


@script(_DOMAIN_OPSET)  # type: ignore[untyped-decorator]
def PartialConv2d(  # type: ignore[no-untyped-def]  # noqa: N802, ANN201, PLR0913
    x: FLOAT[...],
    share: FLOAT[...],
    weight: FLOAT[...],
    bias: FLOAT[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
):
    """Convolve features that are zero in their holes; rescale by what each window covers."""
    coverage = op.AveragePool(
        share, kernel_shape=kernel_shape, strides=strides, pads=pads, count_include_pad=1
    )
    seen = op.Greater(coverage, op.CastLike(0.0, x))
    known = op.CastLike(seen, x)
    ratio = op.Div(known, op.Where(seen, coverage, op.CastLike(1.0, x)))
    convolved = op.Conv(x, weight, kernel_shape=kernel_shape, strides=strides, pads=pads)
    offset = op.Unsqueeze(bias, op.Constant(value_ints=[0, 2, 3]))
    y = op.Add(op.Mul(convolved, ratio), op.Mul(offset, known))
    return y, known


def function_proto() -> onnx.FunctionProto:
    """The function's definition, to be put into a model that has its nodes."""
    proto: onnx.FunctionProto = PartialConv2d.to_function_proto()
    return proto


def translate_partial_conv2d(
    x: Any, share: Any, weight: Any, bias: Any, stride: Sequence[int], padding: Sequence[int]
) -> Any:
    """Emit the node for `torch.ops.pconv_deploy.partial_conv2d` of a torch.export graph.

    The function is not handed to the exporter, only its node: the exporter would inline it.
    """
    if bias is None:
        channels = onnx.helper.make_tensor(
            "zeros", onnx.TensorProto.FLOAT, [weight.shape[0]], [0.0] * weight.shape[0]
        )
        bias = op.CastLike(op.Constant(value=channels), x)
    return _NODE(
        x,
        share,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=list(stride),
        pads=[*padding, *padding],
    )


def _schema() -> OpSchema:
    tensor, attribute = OpSchema.FormalParameter, OpSchema.Attribute
    return OpSchema(
        "PartialConv2d",
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[tensor(name, "T") for name in ("x", "share", "weight", "bias")],
        outputs=[tensor(name, "T") for name in ("y", "known")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "floating point")
        ],
        attributes=[
            attribute(name, OpSchema.AttrType.INTS, "", required=True)
            for name in ("kernel_shape", "strides", "pads")
        ],
    )


_NODE = Op(_DOMAIN_OPSET, "PartialConv2d", _schema())
