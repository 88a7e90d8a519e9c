"""Equal forms of one graph: which of them is fastest depends on runtime, precision and machine."""

from collections.abc import Sequence
from functools import partial

import onnx
import onnx_ir as ir

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.lowering.enlarge_again import enlarge_again
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.lowering.fuse_epilogue import fuse_epilogue
from pconv_deploy.engines.lowering.interleave_phases import (
    Interleave,
    by_axes,
    by_channels_last,
    by_depth_to_space,
    interleave,
    refusal,
)
from pconv_deploy.engines.lowering.narrow_input import narrow_input
from pconv_deploy.engines.lowering.narrow_output import narrow_output
from pconv_deploy.graphs.editing import node_label, nodes_of
from pconv_deploy.graphs.passes import GraphPass, Site, run_passes

_INTERLEAVES: dict[Upsampling, Interleave] = {
    "interleaved": by_axes,
    "interleaved_nhwc": by_channels_last,
    "depth_to_space": by_depth_to_space,
}


def upsampling_sites(model: onnx.ModelProto) -> int:
    """How many convolutions an arrangement chooses the form of."""
    nodes = nodes_of(ir.serde.deserialize_model(model), "ConvTranspose")
    return sum(refusal(node) is None for node in nodes)


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
    for _ in run_passes(graph, passes_of(arrangement)):
        pass
    result = ir.serde.serialize_model(graph)
    del result.graph.value_info[:]
    _name_sides(result, {f"{contract.size_multiple}*{side}": side for side in ("height", "width")})
    return result


def passes_of(arrangement: Arrangement) -> tuple[GraphPass, ...]:
    """Return the passes that bring a graph into a form."""
    upsampling = partial(_upsampled, arrangement=arrangement)
    narrow_last = partial(
        narrow_output, interleaved=_INTERLEAVES.get(arrangement.upsampling[-1], by_axes)
    )
    passes = (
        (arrangement.narrow_input, GraphPass("narrow-input", narrow_input)),
        (arrangement.narrow_output, GraphPass("narrow-output", narrow_last)),
        (True, GraphPass("upsampling", upsampling, after=("narrow-output",))),
        (arrangement.fused_epilogue, GraphPass("fuse-epilogue", fuse_epilogue)),
    )
    return tuple(one for wanted, one in passes if wanted)


def _upsampled(graph: ir.Model, arrangement: Arrangement) -> Sequence[Site]:
    """Bring each decoder convolution into its form; narrow-output may have taken the last."""
    sites: list[Site] = []
    number = 0  # of the convolutions that have a choice of forms
    for node in nodes_of(graph, "ConvTranspose"):
        refused = refusal(node)
        sites.append(Site(node_label(node), refused))
        if refused is not None:
            continue
        form = arrangement.of_site(number)
        number += 1
        if form in _INTERLEAVES:
            interleave(node, _INTERLEAVES[form])
        elif form == "enlarged":
            enlarge_again(node)
    return sites


def _name_sides(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Rename free dimensions: `256*height` says what `height` is a multiple of."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
