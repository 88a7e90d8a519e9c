"""Trace a PyTorch module to an ONNX graph in which partial convolutions are single nodes."""

import ast
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.export import Dim

from pconv_deploy.contract import RAW_OUTPUT, GraphContract
from pconv_deploy.export.ends import DeploymentGraph, TensorGraph
from pconv_deploy.export.target import ExportTarget
from pconv_deploy.export.trace_errors import following, path_in_network, translating
from pconv_deploy.graphs.functions import OPSET, attach_functions, translate_partial_conv2d
from pconv_deploy.graphs.simplification import simplify

_LOG = logging.getLogger(__name__)
# The tests of exporter, layers and importers passed under each; docs/own-networks.md lists them.
OLDEST_TESTED, NEWEST_TESTED = (2, 11), (2, 14)
_NOISY_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes")
_LEAST_UNIT = 32  # pixels; a network that takes any size may still halve it


def warn_if_untested_torch() -> None:
    """Log a warning if the installed torch is not among the tested releases."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not OLDEST_TESTED <= release <= NEWEST_TESTED:
        oldest, newest = (".".join(map(str, tested)) for tested in (OLDEST_TESTED, NEWEST_TESTED))
        _LOG.warning(
            "torch %s is installed; export was tested with %s to %s only. The graph is still "
            "compared with PyTorch before it is kept",
            torch.__version__,
            oldest,
            newest,
        )


def trace_target(target: ExportTarget, contract: GraphContract) -> ir.Model:
    """Trace a network between the ends of a contract's graph. Raises as `trace_module`.

    A deployment graph also returns the network's own output, as `raw_output`.
    """
    multiple = contract.size_multiple
    # Dimensions that are 1 or equal somewhere would be taken as fixed.
    unit = multiple * math.ceil(_LEAST_UNIT / multiple)
    batch, (height, width) = contract.batch or 2, contract.size or (2 * unit, 3 * unit)
    dims: dict[str, object] = {}
    if contract.batch is None:
        dims["batch"] = Dim("batch")
    if contract.size is None:
        dims |= {"height": multiple * Dim("rows"), "width": multiple * Dim("columns")}
    output_names = [spec.name for spec in contract.outputs]
    if contract.kind == "tensor":
        module: nn.Module = TensorGraph(target.traced, contract.normalisation)
        example = (torch.zeros(batch, 3, height, width), torch.zeros(batch, 1, height, width))
    else:
        module = DeploymentGraph(target.traced, contract.normalisation)
        image = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        example = (image, torch.zeros(batch, height, width, dtype=torch.uint8))
        output_names.append(RAW_OUTPUT)
    module.training = False  # the network in it is in evaluation, whatever its own train() takes
    dynamic = tuple(
        {axis: dims[str(n)] for axis, n in enumerate(spec.shape) if str(n) in dims}
        for spec in contract.inputs
    )
    return trace_module(
        module,
        example,
        input_names=[spec.name for spec in contract.inputs],
        output_names=output_names,
        dynamic_shapes=dynamic if dims else None,
    )


def trace_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: Any = None,
) -> ir.Model:
    """Trace a module; its partial convolutions become nodes of `pconv_deploy::PartialConv2d`.

    Args:
        module: in evaluation mode; anything torch.export and torch.onnx understand.
        example: inputs; a dimension that is to be free must not be 0 or 1, nor make an inner
            dimension 1.
        input_names: of the graph, in the order of `example`.
        output_names: of the graph, in the order the module returns them.
        dynamic_shapes: as torch.export.export takes it; None fixes every shape.

    Returns:
        A graph without the exporter's metadata, such as stack traces with local paths.

    Raises:
        ModuleError: torch.export cannot follow a part of it, or ONNX has no operator for one.
    """
    with torch.no_grad(), quiet_torch():
        with following(module):
            exported = torch.export.export(module, example, dynamic_shapes=dynamic_shapes)
        with translating(exported):
            program = torch.onnx.export(
                exported,
                dynamo=True,
                optimize=False,  # it would inline the function
                opset_version=OPSET,
                custom_translation_table={
                    torch.ops.pconv_deploy.partial_conv2d.default: translate_partial_conv2d
                },
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
            )
    assert program is not None
    model: ir.Model = program.model
    attach_functions(model)
    _name_after_modules(model.graph)
    simplify(model)
    ClearMetadataAndDocStringPass()(model)
    # Read back, so that names of later nodes count from 0 and not from what torch's exporter made:
    # TensorRT finds a refitted engine's weights by them.
    return ir.serde.deserialize_model(program.model_proto)


def _name_after_modules(graph: ir.Graph) -> None:
    """Name nodes after the module they come from: `encoder.0.conv`, not `node_conv2d_7`."""
    taken = set()
    for node in sorted(graph, key=lambda node: not node.domain):  # layers before what feeds them
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        path = path_in_network(str(scopes[-2])) if len(scopes) > 2 else ""
        if path and path not in taken:
            taken.add(path)
            node.name = path


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence what torch says of itself while it exports or compiles."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", ".*torch.jit.*deprecated", DeprecationWarning)
            # Tensors that a layer stores during a call, such as its mask, are not exported.
            warnings.filterwarnings("ignore", message="The tensor attributes? ")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
