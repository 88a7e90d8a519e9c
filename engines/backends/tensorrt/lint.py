"""What TensorRT cannot take, found in the graph before its parser sees it, by the nodes' names.

Every rule stands for graphs that TensorRT's own parser or builder was seen to refuse, or that it
takes and then computes otherwise than ONNX says, as its documentation tells: "Supported ONNX
Operators" of its ONNX parser (bytes and doubles, kinds of quantisation, operator sets). What is
feared but taken has no rule: pads below zero, weights that are computed, 64-bit integers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pconv_deploy.engines.backends.tensorrt.lint_graph import Surroundings, attributes, surroundings
from pconv_deploy.engines.backends.tensorrt.lint_rules import RULES, Rule
from pconv_deploy.errors import GraphError

if TYPE_CHECKING:
    import onnx

_SHOWN = 8
_OPSETS = range(9, 25)  # documented for 10.15 and 11.2
_MOST_AXES = 8


class Complaint(NamedTuple):
    """Something TensorRT cannot take: at which node ("" is the whole graph), what, what to do."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}" if self.node else self.text


def lint(model: "onnx.ModelProto") -> list[Complaint]:
    """Say what TensorRT cannot take in a graph; nothing says that it takes all of it.

    Args:
        model: an ONNX model; functions in it are looked into.
    """
    import onnx
    from onnx.inliner import inline_local_functions

    plain = inline_local_functions(model) if model.functions else model
    complaints = [Complaint("", text) for text in _of_opset(plain)]
    try:
        inferred = onnx.shape_inference.infer_shapes(
            plain, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        complaints.append(
            Complaint("", f"its types or shapes contradict each other: {error}. Export it again")
        )
        inferred = onnx.shape_inference.infer_shapes(plain)
    around = surroundings(inferred)
    complaints += [Complaint("", text) for text in _of_inputs(around)]
    for node in around.nodes:
        name = f"{node.name or node.output[0]} ({node.op_type})"
        complaints += [Complaint(name, text) for text in _of_node(node, around)]
    return complaints


def refuse(complaints: Sequence[Complaint]) -> GraphError:
    """One error of all complaints, to be raised."""
    lines = [str(complaint) for complaint in complaints[:_SHOWN]]
    if len(complaints) > _SHOWN:
        lines.append(f"and {len(complaints) - _SHOWN} more")
    return GraphError("TensorRT cannot take this graph:\n  " + "\n  ".join(lines))


def _of_opset(model: "onnx.ModelProto") -> Iterator[str]:
    for domain in model.opset_import:
        if not domain.domain and domain.version not in _OPSETS:
            yield (
                f"found ONNX operator set {domain.version}; TensorRT reads "
                f"{_OPSETS[0]} to {_OPSETS[-1]}. Export it with one of them, such as 18"
            )


def _of_inputs(around: Surroundings) -> Iterator[str]:
    for kind, names in (("input", around.inputs), ("weight", around.weights)):
        for name in sorted(names):
            if text := _of_type(around, name):
                yield f"the {kind} {name!r} {text}"


def _of_node(node: "onnx.NodeProto", around: Surroundings) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield (
            f"found an operator of {node.domain!r}; needed ONNX's own. "
            "Write it as an ONNX function of them"
        )
        return
    for name in node.output:
        if text := _of_type(around, name):
            yield f"its result {name!r} {text}"
    rules: Mapping[str, tuple[Rule, ...]] = RULES
    for rule in (*rules.get("", ()), *rules.get(node.op_type, ())):
        yield from rule(node, attributes(node), around)


def _of_type(around: Surroundings, name: str) -> str | None:
    """What is wrong with a tensor's type or rank, or None."""
    import onnx

    shape, dtype = around.shapes.get(name), around.types.get(name)
    if shape is not None and len(shape) > _MOST_AXES:
        return f"has {len(shape)} axes; TensorRT's tensors have at most {_MOST_AXES}"
    if dtype == onnx.TensorProto.DOUBLE:
        return "is double, which TensorRT would quietly make single. Cast it to float"
    if dtype in _unknown_types():
        return (
            f"is {onnx.TensorProto.DataType.Name(dtype).lower()}, which TensorRT has not; "
            "cast it to int32, int64 or a floating-point type"
        )
    return None


def _unknown_types() -> frozenset[int]:
    from onnx import TensorProto

    return frozenset(
        {
            *(TensorProto.INT16, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
            *(TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128),
            *(TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ),
        }
    )
