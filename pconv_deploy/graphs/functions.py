"""Define the ONNX functions of exported graphs, whose bodies are standard operators.

`PartialConv2d` is the layer as the paper writes it: what the translation from PyTorch emits.
`Renormalise` is what is left of it beside an ordinary convolution once its masks are collapsed.
A runtime that knows a node may compute it in its own way, all others inline the body. Operator
set 18: torch's exporter emits it without conversion, and every runtime reads it.
"""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx.defs import OpSchema
from onnxscript import FLOAT, ir, script
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

OPSET = 18
DOMAIN = "pconv_deploy"
DOMAIN_VERSION = 1
PARTIAL_CONV, RENORMALISE = "PartialConv2d", "Renormalise"
_DOMAIN_OPSET = Opset(DOMAIN, DOMAIN_VERSION)


@script(_DOMAIN_OPSET)  # type: ignore[untyped-decorator]
def PartialConv2d(  # type: ignore[no-untyped-def]  # noqa: N802, ANN201, PLR0913
    x: FLOAT[...],
    mask: FLOAT[...],
    weight: FLOAT[...],
    bias: FLOAT[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    mask_kernel: Sequence[int],
    area: float,
):
    """Compute `pconv_deploy.network.layers.masked_conv2d`; mask_kernel is the shape of its ones."""
    ones = op.Expand(op.CastLike(1.0, mask), op.Constant(value_ints=mask_kernel))
    known = op.Conv(mask, ones, strides=strides, pads=pads, dilations=dilations)
    one = op.CastLike(1.0, mask)
    updated = op.Min(known, one)
    window = op.CastLike(op.Constant(value_float=area), mask)
    seen = op.Greater(known, op.CastLike(0.0, mask))
    ratio = op.Div(op.Mul(updated, window), op.Where(seen, known, one))
    convolved = op.Conv(
        op.Mul(x, mask),
        weight,
        kernel_shape=kernel_shape,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
    )
    offset = op.Unsqueeze(bias, op.Constant(value_ints=[0, 2, 3]))
    y = op.Mul(op.Add(op.Mul(convolved, ratio), offset), updated)
    return y, updated


@script(_DOMAIN_OPSET)  # type: ignore[untyped-decorator]
def Renormalise(  # type: ignore[no-untyped-def]  # noqa: N802, ANN201
    convolved: FLOAT[...], coverage: FLOAT[...], bias: FLOAT[...]
):
    """Rescale by the known share of each window; a window without known pixels gives exactly 0.

    The divisor is chosen before the division: 1 / (coverage + epsilon) overflows in half
    precision where nothing is known, and infinity times 0 is NaN.
    """
    seen = op.Greater(coverage, op.CastLike(0.0, coverage))
    known = op.CastLike(seen, coverage)
    ratio = op.Div(known, op.Where(seen, coverage, op.CastLike(1.0, coverage)))
    offset = op.Unsqueeze(bias, op.Constant(value_ints=[0, 2, 3]))
    scaled = op.Mul(convolved, op.CastLike(ratio, convolved))
    y = op.Add(scaled, op.Mul(offset, op.CastLike(known, convolved)))
    return y, known


def attach_functions(model: ir.Model) -> None:
    """Define exactly those of our functions that a model's nodes use."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN}
    for identifier in [i for i in model.functions if i[0] == DOMAIN]:
        del model.functions[identifier]
    for function in (PartialConv2d, Renormalise):
        if function.name in used:
            defined = ir.serde.deserialize_function(function.to_function_proto())
            defined.opset_imports[""] = model.opset_imports[""]  # one of them per file
            model.functions[defined.identifier()] = defined
    if used:
        model.opset_imports[DOMAIN] = DOMAIN_VERSION
    else:
        model.opset_imports.pop(DOMAIN, None)


def translate_partial_conv2d(  # noqa: PLR0913  as the operator
    x: Any,
    mask: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """Emit the node for `torch.ops.pconv_deploy.partial_conv2d` of a torch.export graph.

    The function is not handed to the exporter, only its node: the exporter would inline it.
    """
    if bias is None:
        channels = onnx.helper.make_tensor(
            "zeros", onnx.TensorProto.FLOAT, [weight.shape[0]], [0.0] * weight.shape[0]
        )
        bias = op.CastLike(op.Constant(value=channels), x)
    channels = mask.shape[1]
    window = [channels, *weight.shape[2:]]
    return _NODE(
        x,
        mask,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        mask_kernel=[1 if channels == 1 else weight.shape[0], *window],
        area=float(window[0] * window[1] * window[2]),
    )


def _schema() -> OpSchema:
    tensor, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    return OpSchema(
        PARTIAL_CONV,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[tensor(name, "T") for name in ("x", "mask", "weight", "bias")],
        outputs=[tensor(name, "T") for name in ("y", "updated")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "floating point")
        ],
        attributes=[
            *(
                attribute(name, kind.INTS, "", required=True)
                for name in ("kernel_shape", "strides", "pads", "dilations", "mask_kernel")
            ),
            attribute("group", kind.INT, "", required=True),
            attribute("area", kind.FLOAT, "", required=True),
        ],
    )


_NODE = Op(_DOMAIN_OPSET, PARTIAL_CONV, _schema())
