"""layers.json: what is known of the precision that an engine computes in.

Networks are strongly typed: TensorRT may compute a node in its type only, so the types of the graph
are the evidence. What TensorRT's engine inspector says of the layers is kept beside it as it came:
an engine must be loaded to be inspected, which takes a GPU: none has been inspected yet.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from pconv_deploy.engines.int8.graph import quantised_convolutions
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Precision

if TYPE_CHECKING:
    import onnx

LAYERS = "layers.json"
_NULL = msgspec.Raw(b"null")


class LayerReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of layers.json.

    graph   convolutions of the graph, by the types of what they multiply
    engine  what the engine inspector answered, a list with one answer for each profile; null: the
            engine was not loaded, as where there is no GPU that it is for
    """

    graph: Mapping[Precision, int]
    engine: msgspec.Raw = _NULL


class _Layer(msgspec.Struct):
    kind: str = msgspec.field(name="LayerType", default="unnamed")


class _Answer(msgspec.Struct):
    layers: list[_Layer | str] = msgspec.field(name="Layers", default_factory=list)


def read_layers(read: Callable[[str], bytes]) -> LayerReport:
    """Read an engine's layers.json.

    Args:
        read: returns the content of one of the engine's files, as `EngineFiles.read` does.

    Raises:
        EngineError: it is missing, changed or damaged.
    """
    try:
        return msgspec.json.decode(read(LAYERS), type=LayerReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{LAYERS} of the engine is damaged: {error}") from error


def described_layers(read: Callable[[str], bytes]) -> str | Mapping[str, str]:
    """Count the layers by the type that the inspector gives, or say why they cannot be read."""
    try:
        answers = bytes(read_layers(read).engine)
    except EngineError as error:
        return f"not known: {str(error).partition(chr(10))[0]}"
    if answers == bytes(_NULL):
        return "not known: the engine was not loaded where it was built"
    try:
        decoded = msgspec.json.decode(answers, type=list[_Answer] | _Answer)
    except msgspec.DecodeError:
        return f"as TensorRT's engine inspector lists them in {LAYERS}"
    first = decoded if isinstance(decoded, _Answer) else (decoded or [_Answer()])[0]
    kinds = Counter(layer if isinstance(layer, str) else layer.kind for layer in first.layers)
    return {kind: str(count) for kind, count in kinds.most_common()}


def convolution_types(model: "onnx.ModelProto") -> Mapping[Precision, int]:
    """Count the convolutions of a graph without functions by the types of what they multiply.

    A convolution that reads what DequantizeLinear gives computes in eight bits. Those of masks
    are among them, in single precision.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    names: Mapping[int, Precision] = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
    }
    graph = inferred.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    in_codes = quantised_convolutions(model)
    found = Counter[Precision]()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            if node.name in in_codes:
                found["int8"] += 1
            elif types.get(node.input[0]) in names:
                found[names[types[node.input[0]]]] += 1
    return found
