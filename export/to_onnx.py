"""Any module made of PartialConv2d layers -> an ONNX model in which they are single nodes."""

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnxscript import ir
from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from pconv_deploy.export.untraceable import following, path_in_network, translating
from pconv_deploy.graphs.functions import OPSET, attach_functions, translate_partial_conv2d
from pconv_deploy.graphs.simplification import simplify

_TALKATIVE = ("torch.onnx", "torch.fx.experimental.symbolic_shapes")


def onnx_from_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: Any = None,
) -> onnx.ModelProto:
    """Export a module, its partial convolutions as nodes of `pconv_deploy::PartialConv2d`.

    Args:
        module: in evaluation mode; anything torch.export and torch.onnx understand.
        example: inputs; a dimension that is to be free must not be 0 or 1, nor make an inner
            dimension 1.
        input_names: of the graph, in the order of `example`.
        output_names: of the graph, in the order the module returns them.
        dynamic_shapes: as torch.export.export takes it; None fixes every shape.

    Returns:
        An ONNX model without traces of the machine it was made on.

    Raises:
        ModuleError: torch.export cannot follow a part of it, or ONNX has no operator for one.
    """
    with torch.no_grad(), _quiet_exporter():
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
    model = program.model
    attach_functions(model)
    _name_after_modules(model.graph)
    simplify(model)
    # Stack traces with the paths of whoever exported.
    ClearMetadataAndDocStringPass()(model)
    return program.model_proto


def _name_after_modules(graph: ir.Graph) -> None:
    """Nodes get the name of the module they come from: `encoder.0.conv`, not `node_conv2d_7`."""
    taken = set()
    for node in sorted(graph, key=lambda node: not node.domain):  # layers before what feeds them
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        path = path_in_network(str(scopes[-2])) if len(scopes) > 2 else ""
        if path and path not in taken:
            taken.add(path)
            node.name = path


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch says of itself while it exports: absent torchvision, deprecations."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # What a layer keeps of a call, such as its mask, is of no use to a graph.
            warnings.filterwarnings("ignore", message="The tensor attributes? ")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
