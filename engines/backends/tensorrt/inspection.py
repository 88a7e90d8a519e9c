"""What a built engine tells of its layers, through TensorRT's engine inspector.

Written after NVIDIA's description of the inspector ("Engine Inspector" in TensorRT's
documentation), the fields published there and how NVIDIA's engine explorer reads them; an engine
must be loaded to be inspected, which takes a GPU, so that no inspector has been read here yet.

TensorRT may fuse all of a network into one node, which then tells nothing of the convolutions in
it: they are "unknown" here. The types in the graph are then the evidence, as networks are strongly
typed: TensorRT may compute a node in its type only. See `convolution_types`.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pconv_deploy.engines.backends.tensorrt.options import Layers
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Precision

if TYPE_CHECKING:
    import onnx

_T = TypeVar("_T")
UNKNOWN: Final = "unknown"
# Each profile of an engine has layers of its own; those after the first profile's are so marked.
_PROFILE = re.compile(r"\[profile +(\d+)\]")
_LONGEST = 256 << 20  # characters; some kilobytes for each layer are usual
# By the words in `Format/Datatype` of tensors and `Type` of weights, the narrower first.
_PRECISIONS: Sequence[tuple[str, str]] = (
    (r"int8|\bi8\b", "int8"),
    (r"fp8|float8", "fp8"),
    (r"bfloat16|bf16", "bf16"),
    (r"half|fp16|float16", "fp16"),
    (r"float|fp32|tf32", "fp32"),
)
_OURS: Mapping[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
# Of the convolutions' work: masks stay in single precision, and calibration decides which layers
# of an int8 engine do.
_LEAST_SHARE: Mapping[Precision, float] = {"fp32": 1.0, "fp16": 0.9, "bf16": 0.9, "int8": 0.0}


class _Tensor(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    dimensions: list[int] = msgspec.field(name="Dimensions", default_factory=list)
    format: str = msgspec.field(name="Format/Datatype", default="")
    datatype: str = msgspec.field(name="Datatype", default="")


class _Weights(msgspec.Struct):
    type: str = msgspec.field(name="Type", default="")
    count: int = msgspec.field(name="Count", default=0)


class _Layer(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    kind: str = msgspec.field(name="LayerType", default="")
    parameters: str = msgspec.field(name="ParameterType", default="")
    inputs: list[_Tensor] = msgspec.field(name="Inputs", default_factory=list)
    outputs: list[_Tensor] = msgspec.field(name="Outputs", default_factory=list)
    weights: _Weights = msgspec.field(name="Weights", default_factory=_Weights)
    tactic: str = msgspec.field(name="TacticName", default="")
    origin: str = msgspec.field(name="Origin", default="")


class _Engine(msgspec.Struct):
    layers: list[_Layer | str] = msgspec.field(name="Layers", default_factory=list)
    bindings: list[str] = msgspec.field(name="Bindings", default_factory=list)


class _Told(msgspec.Struct):
    """The same, with the layers as they were told."""

    layers: list[msgspec.Raw] = msgspec.field(name="Layers", default_factory=list)
    bindings: list[str] = msgspec.field(name="Bindings", default_factory=list)


def joined(answers: Sequence[str]) -> str:
    """Make one description out of what was told in a context of each profile.

    Each answer has the layers of all profiles, and sizes only for those of its own context.

    Args:
        answers: what `get_engine_information` gives in JSON, by profile.

    Raises:
        EngineError: as `layers_of`.
    """
    whole = _Told()
    for profile, answer in enumerate(answers):
        told, read = _decoded(answer, _Told), _decoded(answer, _Engine).layers
        both = zip(told.layers, read, strict=True)
        own = [layer for layer, known in both if _profile_of(known) == profile]
        # Should a context tell of its own layers alone, and mark none.
        whole.layers += own or told.layers
        whole.bindings += [name for name in told.bindings if name not in whole.bindings]
    return msgspec.json.encode(whole).decode()


def layers_of(information_json: str) -> Layers:
    """Count an engine's layers.

    Args:
        information_json: what `get_engine_information` gives in JSON. Without detailed verbosity
            layers have names alone, and nothing is known of their precision.

    Raises:
        EngineError: it is too long, or unlike what NVIDIA documents.
    """
    engine = _decoded(information_json, _Engine)
    described = [layer for layer in engine.layers if isinstance(layer, _Layer)]
    convolutions = Counter[str]()
    work = defaultdict[str, float](float)
    for layer in described:
        if _is_convolution(layer):
            convolutions[_precision(layer)] += 1
            work[_precision(layer)] += _multiply_adds(layer) or math.inf
        elif _is_fused(layer):
            convolutions[UNKNOWN] += 1
    names = [layer for layer in engine.layers if isinstance(layer, str)]
    convolutions[UNKNOWN] += sum("ForeignNode[" in name for name in names)
    total = sum(work.values())
    known = 0 < total < math.inf and not convolutions[UNKNOWN]
    return Layers(
        count=len(engine.layers),
        reformats=sum(_is_reformat(layer, set(engine.bindings)) for layer in described),
        convolutions={name: n for name, n in convolutions.items() if n},
        work={name: round(n / total, 4) for name, n in work.items()} if known else {},
    )


def executed_by(layers: Layers | None, types: Mapping[Precision, int]) -> Mapping[Precision, int]:
    """Convolutions by the precision they compute in.

    Args:
        layers: what the inspector told; None if it was not asked.
        types: of the graph, from `convolution_types`: what counts where the inspector does not
            tell of every convolution, as TensorRT may compute a node in its type only.
    """
    told = dict(layers.convolutions) if layers else {}
    if not told or not told.keys() <= _OURS.keys():
        return types
    return {_OURS[name]: count for name, count in told.items()}


def complaints(layers: Layers, precision: Precision) -> list[str]:
    """What is not as it should be in an engine of this precision, for people."""
    found = []
    if layers.count and not layers.convolutions:
        found.append(
            "the engine does not tell what its layers compute in; "
            "build it with --profiling-verbosity detailed"
        )
    if why := shortfall(layers, precision):
        found.append(why)
    if layers.reformats:
        found.append(
            f"{layers.reformats} of {layers.count} layers, between others, only change how "
            "numbers are laid out"
        )
    return found


def shortfall(layers: Layers, precision: Precision) -> str | None:
    """Say that too few of the convolutions are in their engine's precision; None if they are.

    By their work where that is known, else by their number.
    """
    told = {n: count for n, count in layers.convolutions.items() if n != UNKNOWN}
    shares = layers.work or {n: count / sum(told.values()) for n, count in told.items()}
    share, least = shares.get(precision, 0.0), _LEAST_SHARE[precision]
    if not told or share >= least:
        return None
    others = ", ".join(f"{count} in {name}" for name, count in sorted(told.items()))
    what = "the convolutions' work" if layers.work else "the convolutions"
    return (
        f"{100 * share:.0f} % of {what} is in {precision}, needed {100 * least:.0f} %; "
        f"found {others}"
    )


def convolution_types(model: "onnx.ModelProto") -> Mapping[Precision, int]:
    """The convolutions of a graph without functions, by the types of what they multiply.

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
    codes = {
        result
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        for result in node.output
    }
    found = Counter[Precision]()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            if {node.input[0], node.input[1]} <= codes:
                found["int8"] += 1
            elif types.get(node.input[0]) in names:
                found[names[types[node.input[0]]]] += 1
    return found


def _decoded(text: str, kind: type[_T]) -> _T:
    if len(text) > _LONGEST:
        raise EngineError(
            f"TensorRT tells of the layers in {len(text)} characters; needed at most {_LONGEST}"
        )
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise EngineError(f"TensorRT tells of the layers in an unknown form: {error}") from error


def _profile_of(layer: _Layer | str) -> int:
    found = _PROFILE.search(layer if isinstance(layer, str) else layer.name)
    return int(found[1]) if found else 0


def _is_convolution(layer: _Layer) -> bool:
    kind = layer.parameters or layer.kind
    return "conv" in kind.lower() and not _is_fused(layer)


def _is_fused(layer: _Layer) -> bool:
    return layer.kind == "Myelin" or "ForeignNode[" in layer.name


def _is_reformat(layer: _Layer, bindings: set[str]) -> bool:
    """Whether it only moves numbers, inside of the network: at its ends somebody must."""
    if layer.kind != "Reformat" or layer.origin not in ("", "REFORMAT"):
        return False  # such as QDQ: it computes something
    return bindings.isdisjoint(tensor.name for tensor in (*layer.inputs, *layer.outputs))


def _precision(layer: _Layer) -> str:
    """What a convolution multiplies; "unknown" where its input and weights disagree."""
    read = [tensor.datatype or tensor.format for tensor in layer.inputs[:1]]
    found = {name for text in (*read, layer.weights.type) if (name := _named(text))}
    return found.pop() if len(found) == 1 else UNKNOWN


def _named(text: str) -> str | None:
    """The precision a description is of; None for one that does not say."""
    return next((name for words, name in _PRECISIONS if re.search(words, text.lower())), None)


def _multiply_adds(layer: _Layer) -> int:
    """Of one convolution, 0 where a size is free: each weight meets each position once."""
    # A transposed one may be a "Convolution" by its parameters.
    transposed = "deconv" in f"{layer.parameters} {layer.kind}".lower()
    positions = layer.inputs[:1] if transposed else layer.outputs[:1]
    sizes = positions[0].dimensions[2:] if positions else []
    known = sizes and min(sizes) > 0
    return layer.weights.count * math.prod(sizes) if known else 0
