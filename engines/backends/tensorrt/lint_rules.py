"""The lint's rules, by the operators they are about."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pconv_deploy.engines.backends.tensorrt.lint_graph import Surroundings

if TYPE_CHECKING:
    import onnx

Rule = Callable[["onnx.NodeProto", Mapping[str, Any], Surroundings], Iterator[str]]

MISSING = frozenset(
    {
        *("AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot"),
        *("BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence"),
        *("ConvInteger", "CumProd", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder"),
        *("MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial"),
        *("NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct"),
        *("SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"),
        *("SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer"),
        *("StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"),
    }
)
_TRANSFORMATIONS = (
    *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
    *("asymmetric", "align_corners"),
)
_WINDOW = 100_000  # positions, from which on TensorRT has no two-dimensional windows
# Operands that decide a shape: TensorRT knows shapes before it computes anything.
_SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
_REDUCTIONS = tuple(
    f"Reduce{kind}"
    for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")
)


def _missing(node: "onnx.NodeProto", _: Mapping[str, Any], _around: Surroundings) -> Iterator[str]:
    if node.op_type in MISSING:
        yield "TensorRT's parser has no such operator. Write it with others"


def _bytes(node: "onnx.NodeProto", _: Mapping[str, Any], around: Surroundings) -> Iterator[str]:
    from onnx import TensorProto

    if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
        return
    converts = node.op_type in ("Cast", "Identity")
    read = [n for n in node.input if n not in around.constants]
    found = [n for n in read if around.types.get(n) == TensorProto.UINT8]
    if found and not converts:
        yield f"it reads the bytes {found[0]!r}; TensorRT only casts bytes. Cast them to float"
        return  # what it gives follows from it
    for name in (n for n in node.output if around.types.get(n) == TensorProto.UINT8):
        if not converts or name not in around.outputs:
            yield (
                f"its result {name!r} is bytes, which TensorRT has at the graph's ends only. "
                "Cast to uint8 last, onto an output"
            )


def _data_in_shapes(
    node: "onnx.NodeProto", _: Mapping[str, Any], around: Surroundings
) -> Iterator[str]:
    for index in _SHAPE_OPERANDS.get(node.op_type, ()):
        if index < len(node.input) and (source := around.depends_on(node.input[index])):
            yield (
                f"its operand {node.input[index]!r} decides a shape and depends on the values of "
                f"the input {source!r}; needed a constant, or one computed from shapes"
            )


def _convolution(
    node: "onnx.NodeProto", attributes: Mapping[str, Any], around: Surroundings
) -> Iterator[str]:
    shape = around.shapes.get(node.input[1])
    if shape is None or None in shape:
        yield (
            f"the shape of its weights {node.input[1]!r} is not fixed; TensorRT takes weights "
            "that are computed, but of one shape"
        )
        return
    window = tuple(int(side or 0) for side in attributes.get("kernel_shape", shape[2:]))
    if len(window) > 3:
        yield f"its window has {len(window)} dimensions; TensorRT convolves 1, 2 and 3"
    if len(window) == 2 and math.prod(window) >= _WINDOW:
        yield f"its window has {math.prod(window)} positions; needed less than {_WINDOW}"


def _transposed_convolution(
    node: "onnx.NodeProto", attributes: Mapping[str, Any], around: Surroundings
) -> Iterator[str]:
    from onnx import TensorProto

    if around.types.get(node.input[0]) == TensorProto.BFLOAT16:
        yield (
            "TensorRT has no transposed convolution in bf16. Build fp16, or another form of the "
            "upsampling: enlarged or interleaved"
        )
    if max(attributes.get("dilations", [1])) > 1 and max(attributes.get("strides", [1])) > 1:
        yield "TensorRT has no transposed convolution that is strided and dilated at once"
    shape = around.shapes.get(node.input[0])
    # A rank that is not known follows from something else, of which there is a complaint.
    if shape is not None and (len(shape) < 2 or shape[1] is None):
        yield "its number of input channels is not fixed; TensorRT needs it fixed here"


def _pool(node: "onnx.NodeProto", attributes: Mapping[str, Any], _: Surroundings) -> Iterator[str]:
    window = attributes.get("kernel_shape", [])
    if max(attributes.get("dilations", [1])) > 1:
        yield f"found dilations {attributes['dilations']}; TensorRT pools undilated windows only"
    if len(window) > 3:
        yield f"its window has {len(window)} dimensions; TensorRT pools 1, 2 and 3"
    if len(window) == 2 and math.prod(window) >= _WINDOW:
        yield f"its window has {math.prod(window)} positions; needed less than {_WINDOW}"
    if len([name for name in node.output if name]) > 1:
        yield "it also gives the places of the largest, which TensorRT does not"
    if node.op_type == "LpPool" and attributes.get("p", 2) not in (1, 2):
        yield f"found p={attributes['p']}; TensorRT has 1 and 2"


def _resize(
    _node: "onnx.NodeProto", attributes: Mapping[str, Any], _: Surroundings
) -> Iterator[str]:
    transformation = attributes.get("coordinate_transformation_mode", "half_pixel")
    if transformation not in _TRANSFORMATIONS:
        yield (
            f"found coordinate_transformation_mode {transformation}; "
            f"TensorRT has {', '.join(_TRANSFORMATIONS)}"
        )
    if attributes.get("antialias", 0):
        yield "TensorRT has no antialias"
    if (policy := attributes.get("keep_aspect_ratio_policy", "stretch")) != "stretch":
        yield f"found keep_aspect_ratio_policy {policy}; TensorRT has stretch only"


def _quantisation(
    node: "onnx.NodeProto", _: Mapping[str, Any], around: Surroundings
) -> Iterator[str]:
    from onnx import TensorProto

    codes = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    if around.types.get(codes) == TensorProto.UINT8:
        yield (
            "found codes of uint8, which TensorRT would take for int8. "
            "Quantise to int8 with a zero point of int8 0"
        )
    zero = around.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None and zero.any():
        yield f"found the zero point {zero.ravel()[0]}; TensorRT has 0 only. Quantise symmetrically"
    scale = around.values(node.input[1])
    if scale is not None and not (scale > 0).all():
        yield "found a scale that is not above 0"


def _reduction(node: "onnx.NodeProto", _: Mapping[str, Any], around: Surroundings) -> Iterator[str]:
    if len(node.input) > 1 and (source := around.depends_on(node.input[1])):
        yield f"its axes depend on the input {source!r}; needed constants"


def _training(
    node: "onnx.NodeProto", attributes: Mapping[str, Any], around: Surroundings
) -> Iterator[str]:
    on = attributes.get("training_mode", 0)
    if node.op_type == "Dropout" and len(node.input) > 2:
        mode = around.values(node.input[2])
        on = mode is None or mode.any()
    if on:
        yield "it is in training mode. Export the network in evaluation mode"


def _scatter(
    _node: "onnx.NodeProto", attributes: Mapping[str, Any], _: Surroundings
) -> Iterator[str]:
    if (reduction := attributes.get("reduction", "none")) != "none":
        yield f"found reduction {reduction}; TensorRT has none"


RULES: Mapping[str, tuple[Rule, ...]] = {
    "": (_missing, _bytes, _data_in_shapes),
    "AveragePool": (_pool,),
    "BatchNormalization": (_training,),
    "Conv": (_convolution,),
    "ConvTranspose": (_convolution, _transposed_convolution),
    "DequantizeLinear": (_quantisation,),
    "Dropout": (_training,),
    "LpPool": (_pool,),
    "MaxPool": (_pool,),
    "QuantizeLinear": (_quantisation,),
    **dict.fromkeys(_REDUCTIONS, (_reduction,)),
    "Resize": (_resize,),
    "ScatterND": (_scatter,),
}
