"""Reading an exported graph that an engine may be built from."""

from pathlib import Path

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import GraphError, Remedy
from pconv_deploy.graphs.file import ExportedGraph, read_graph


def read_accepted(graph: Path) -> ExportedGraph:
    """Read an exported graph that its export found to be right.

    Raises:
        GraphError: it is not ours, damaged, was rejected, or has been changed.
        MissingRuntimeError: the onnx package is not installed.
    """
    exported = read_graph(graph)
    if exported.unproved:
        raise GraphError(f"{graph} {exported.unproved}", _export_again(exported.contract))
    if exported.parity is None or exported.parity.failures():
        raise GraphError(
            f"{graph} was not accepted when it was exported", _export_again(exported.contract)
        )
    return exported


def options_of(contract: GraphContract) -> dict[str, object]:
    """Return the options of the export that a contract tells, as `Remedy.options` has them."""
    options: dict[str, object] = {"precision": contract.precision}
    if contract.kind == "tensor":
        options["tensor_level"] = True
    if contract.batch:
        options["batch"] = contract.batch
    if contract.size:
        options["size"] = "x".join(map(str, contract.size))
    return options


def _export_again(contract: GraphContract) -> Remedy:
    """What exports a graph again that comes without evidence, as far as the contract knows.

    Under a new name: the file may have been changed on purpose. The rewrites' level is left out,
    as another release may have others.
    """
    source = contract.source
    options: dict[str, object] = {}
    if source.module:
        options["module"] = source.module.factory
        if source.file != source.module.factory:
            options["weights"] = source.file
    return Remedy(
        purpose="Export it again",
        command="export",
        arguments=() if source.module else (source.file,),
        options={**options, "output": "new.onnx", **options_of(contract)},
    )
