"""Small graphs that TensorRT refuses, takes, or takes for something else."""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from tests.engines.backends.tensorrt.small_graphs import (
    I64,
    IMAGE,
    U8,
    B,
    F,
    H,
    cast,
    convolved,
    longs,
    normal,
    other,
    padded,
    pooled,
    quantised,
    resized,
    shaped,
    small,
    the,
)


class Case(NamedTuple):
    """A graph from x to y and, where it is refused, what the lint says of it."""

    name: str
    graph: onnx.ModelProto
    words: str = ""
    place: str = "the_node"


REFUSED = [
    Case("unique", small(the("Unique", "x")), "no such operator"),
    Case("domain", small(the("Sharpen", "x", domain="elsewhere")), "found an operator of 'else"),
    Case(
        "bytes-moved",
        small(the("Transpose", "x", "t"), cast("t", "y", F), x=(U8, IMAGE)),
        r"reads the bytes 'x'; .* Cast them to float",
    ),
    Case(
        "bytes-compared",
        small(
            the("Equal", "x c", "t"), cast("t", "y", F), x=(U8, IMAGE), c=np.array([0], np.uint8)
        ),
        "reads the bytes 'x'",
    ),
    Case(
        "bytes-inside",
        small(the("Cast", "x", "u", to=U8), cast("u", "y", F)),
        "'u' is bytes, which TensorRT has at the graph's ends only",
    ),
    Case(
        "uint16", small(the("Cast", "x", "u", to=TensorProto.UINT16), cast("u", "y", F)), "uint16"
    ),
    Case("int16-input", small(cast("x", "y", F), x=(TensorProto.INT16, IMAGE)), "int16", ""),
    Case(
        "uint32-weight", small(cast("c", "y", F), c=np.array([1], np.uint32)), "'c' is uint32", ""
    ),
    Case("nine-axes", small(the("Relu", "x"), x=(F, (1,) * 9)), "9 axes; .* at most 8", ""),
    Case(
        "types-mixed",
        small(the("Add", "x c"), x=(H, IMAGE), y=H, c=normal(1)),
        "contradict each other: .*the_node",
        "",
    ),
    *(
        Case(f"shape-{node.op_type}", shaped(node, length, **constants), "decides a shape .* 'z'")
        for node, length, constants in (
            (the("Reshape", "x shape"), 4, {}),
            (the("Expand", "x shape"), 4, {}),
            (the("Tile", "x shape"), 4, {}),
            (the("Slice", "x shape e"), 4, {"e": longs(*IMAGE)}),
            (the("Pad", "x shape"), 8, {}),
            (the("Resize", "x - - shape"), 4, {}),
            (the("ConstantOfShape", "shape"), 4, {}),
            (the("TopK", "x shape", "y i"), 1, {}),
            (the("Squeeze", "x shape"), 1, {}),
            (the("Unsqueeze", "x shape"), 1, {}),
            (the("Split", "x shape", "y y2", axis=1), 2, {}),
        )
    ),
    Case(
        "scales-given",
        small(the("Resize", "x - s"), more={"s": (F, (4,))}),
        "its operand 's' decides a shape",
    ),
    Case(
        "axes-given",
        small(the("ReduceSum", "x a"), more={"a": (I64, (1,))}),
        "its axes depend on the input 'a'",
    ),
    Case(
        "conv-4d",
        small(the("Conv", "x w"), x=(F, (1, 4, 8, 8, 8, 8)), w=normal(8, 4, 3, 3, 3, 3)),
        "4 dimensions",
    ),
    Case(
        "conv-window",
        small(the("Conv", "x w"), x=(F, (1, 1, 320, 320)), w=np.ones((1, 1, 317, 317), np.float32)),
        "100489 positions; needed less than 100000",
    ),
    Case(
        "conv-weights-of-any-size",
        small(the("Conv", "x w"), more={"w": (F, ("k", 4, 3, 3))}),
        "its weights 'w' is not fixed",
    ),
    Case("deconv-bf16", convolved("ConvTranspose", 4, 8, 4, 4, x=B, strides=[2, 2]), "in bf16"),
    Case(
        "deconv-dilated",
        convolved("ConvTranspose", 4, 8, 3, 3, strides=[2, 2], dilations=[2, 2]),
        "strided and dilated",
    ),
    Case(
        "deconv-channels",
        small(the("ConvTranspose", "x w"), x=(F, (1, "c", 8, 8)), w=normal(4, 8, 3, 3)),
        "number of input channels",
    ),
    *(
        Case(f"{operator}-dilated", pooled(operator, dilations=[2, 2]), r"dilations \[2, 2\]")
        for operator in ("AveragePool", "MaxPool", "LpPool")
    ),
    Case("pool-4d", pooled(x=(1, 4, 8, 8, 8, 8), kernel_shape=[3] * 4), "4 dimensions"),
    Case("pool-window", pooled(x=(1, 1, 320, 320), kernel_shape=[317, 317]), "100489 positions"),
    Case("pool-p", pooled("LpPool", p=3), "p=3"),
    Case(
        "pool-places", small(the("MaxPool", "x", "y i", kernel_shape=[3, 3])), "places of the larg"
    ),
    *(
        Case(
            f"resize-{mode}",
            resized(mode=mode, coordinate_transformation_mode="half_pixel_symmetric"),
            "coordinate_transformation_mode half_pixel_symmetric",
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    Case(
        "resize-crop",
        small(
            the("Resize", "x roi s", coordinate_transformation_mode="tf_crop_and_resize"),
            roi=np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
            s=np.array([1, 1, 2, 2], np.float32),
        ),
        "coordinate_transformation_mode tf_crop_and_resize",
    ),
    Case("resize-antialias", resized(mode="linear", antialias=1), "no antialias"),
    Case(
        "resize-aspect",
        small(
            the("Resize", "x - - z", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
            z=longs(32, 20),
        ),
        "keep_aspect_ratio_policy not_larger",
    ),
    Case("zero-point", quantised(np.int8, 3, 0.1), "zero point 3; .* Quantise symmetrically"),
    Case("scale", quantised(np.int8, 0, 0), "not above 0"),
    Case(
        "norm-training",
        small(
            the("BatchNormalization", "x a a a b", "y m v", training_mode=1),
            a=np.ones(4, np.float32),
            b=np.ones(4, np.float32),
        ),
        "training mode",
    ),
    Case(
        "dropout-training",
        small(the("Dropout", "x r t"), r=np.array(0.5, np.float32), t=np.array(True)),
        "training mode",
    ),
    Case(
        "scatter-add",
        small(the("ScatterND", "x i u", reduction="add"), i=longs(0)[None], u=normal(1, 4, 16, 16)),
        "reduction add",
    ),
]

# What is feared of TensorRT and yet taken; a release that refuses it fails here.
TAKEN = [
    Case(
        "bytes-at-the-ends",
        small(cast("x", "a", F), other("Relu", "a", "b"), cast("b", "y", U8), x=(U8, IMAGE), y=U8),
    ),
    *(
        Case(f"pads-{mode}-{'-'.join(map(str, pads))}", padded(0, 0, *pads, 0, 0, *pads, mode=mode))
        for mode in ("constant", "reflect", "edge", "wrap")
        for pads in ((-1, -1), (1, 1), (1, -1))
    ),
    *(
        Case(f"resize-{mode}-{way}", resized(mode=mode, coordinate_transformation_mode=way))
        for mode in ("nearest", "linear", "cubic")
        for way in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
    ),
    *(
        Case(f"nearest-{n}", resized(nearest_mode=n, coordinate_transformation_mode="asymmetric"))
        for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    Case(
        "weights-given", small(the("Conv", "x w b"), more={"w": (F, (8, 4, 3, 3)), "b": (F, (8,))})
    ),
    Case(
        "weights-computed", small(other("Relu", "v", "w"), the("Conv", "x w"), v=normal(8, 4, 3, 3))
    ),
    Case("conv-bf16", convolved("Conv", 8, 4, 3, 3, x=B, dilations=[2, 2])),
    Case("conv-grouped", convolved("Conv", 8, 2, 3, 3, group=2, pads=[0, 1, 2, 1])),
    Case(
        "deconv-outputs",
        convolved("ConvTranspose", 4, 8, 3, 3, strides=[2, 2], output_padding=[1, 1]),
    ),
    Case("deconv-grouped", convolved("ConvTranspose", 4, 1, 3, 3, strides=[2, 2], group=4)),
    Case("deconv-dilated", convolved("ConvTranspose", 4, 8, 3, 3, dilations=[2, 2])),
    *(
        Case(f"pool-{'-'.join(k)}", pooled(**k))
        for k in (
            {"ceil_mode": 1, "strides": [2, 2]},
            {"count_include_pad": 1, "pads": [0, 0, 1, 1]},
            {"auto_pad": "SAME_LOWER"},
        )
    ),
    *(
        Case(f"blocks-{mode}", small(the("DepthToSpace", "x", blocksize=2, mode=mode)))
        for mode in ("DCR", "CRD")
    ),
    Case(
        "long-numbers",
        small(cast("x", "a", I64), other("Add", "a c", "b"), cast("b", "y", F), c=longs(1 << 40)),
    ),
    Case(
        "shape-of-shape",
        small(
            other("Shape", "x", "s"),
            other("Mul", "s one", "t"),
            the("Expand", "x t"),
            one=longs(1, 1, 1, 1),
        ),
    ),
    Case(
        "shape-searched",
        small(
            other("ArgMax", "z", "s", axis=0, keepdims=0),
            the("Reshape", "x s"),
            more={"z": (F, (4, 4))},
        ),
    ),
    Case("quantised", quantised(np.int8, 0, 0.1)),
]

# What TensorRT takes, and computes otherwise than ONNX says: its documentation tells.
QUIET = [
    Case(
        "bytes-as-codes", quantised(np.uint8, 0, 0.1), "uint8, which TensorRT would take for int8"
    ),
    Case(
        "double",
        small(the("Cast", "x", "d", to=TensorProto.DOUBLE), cast("d", "y", F)),
        "'d' is double, which TensorRT would quietly make single",
    ),
    Case("opset-8", small(the("Relu", "x"), opset=8), "operator set 8; TensorRT reads 9 to 24", ""),
    Case("opset-25", small(the("Relu", "x"), opset=25), "operator set 25", ""),
]
