"""Equal forms of one graph: which of them is fastest depends on runtime, precision and machine."""

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass, ShapeInferencePass

from pconv_deploy.contract import GraphContract
from pconv_deploy.export.rewrites.enlarge_again import enlarge_again
from pconv_deploy.export.rewrites.forms import Arrangement
from pconv_deploy.export.rewrites.fuse_epilogue import fuse_epilogue
from pconv_deploy.export.rewrites.interleave_phases import interleave, refusal
from pconv_deploy.export.rewrites.narrow_input import narrow_input
from pconv_deploy.export.rewrites.narrow_output import narrow_output
from pconv_deploy.export.rewrites.pipeline import REWRITES, Level


def upsampling_sites(model: onnx.ModelProto) -> int:
    """How many convolutions an arrangement chooses the form of."""
    return len(_sites(ir.serde.deserialize_model(model)))


def is_arranged(contract: GraphContract) -> bool:
    """Whether a graph was exported at -O3: its forms are chosen already."""
    layout = {rewrite.name for rewrite in REWRITES if rewrite.level == Level.LAYOUT}
    return not layout.isdisjoint(contract.rewrites)


def arranged(
    model: onnx.ModelProto, arrangement: Arrangement, contract: GraphContract
) -> onnx.ModelProto:
    """Bring a graph exported at -O2 into one of its equal forms; what it lacks stays as it is."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    _name_sides(
        prepared, {side: f"{contract.size_multiple}*{side}" for side in ("height", "width")}
    )
    graph = ir.serde.deserialize_model(prepared)
    ShapeInferencePass()(graph)
    if arrangement.narrow_input:
        narrow_input(graph)
    sites = _sites(graph)
    forms = [arrangement.of_site(number) for number in range(len(sites))]
    if arrangement.narrow_output:
        narrow_output(graph)
    for node, form in zip(sites, forms, strict=True):
        if node.graph is None:
            continue  # narrow_output took it
        if form == "interleaved":
            interleave(node)
        elif form == "enlarged":
            enlarge_again(node)
    if arrangement.fused_epilogue:
        fuse_epilogue(graph)
    RemoveUnusedNodesPass()(graph)
    NameFixPass()(graph)  # new values may be called as weights or inputs are
    result = ir.serde.serialize_model(graph)
    del result.graph.value_info[:]
    _name_sides(result, {f"{contract.size_multiple}*{side}": side for side in ("height", "width")})
    return result


def _sites(graph: ir.Model) -> list[ir.Node]:
    return [n for n in graph.graph if n.op_type == "ConvTranspose" and refusal(n) is None]


def _name_sides(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Rename free dimensions: `256*height` says what `height` is a multiple of."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
