"""Reading an exported graph that an engine may be built from."""

import shlex
from pathlib import Path

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.file import ExportedGraph, read_graph


def read_accepted(graph: Path) -> ExportedGraph:
    """Read an exported graph that its export found to be right.

    Raises:
        GraphError: it is not ours, damaged, was rejected, or has been changed.
        MissingRuntimeError: the onnx package is not installed.
    """
    exported = read_graph(graph)
    if exported.unproved:
        raise GraphError(f"{graph} {exported.unproved}.{_export_again(exported.contract)}")
    if exported.parity is None or exported.parity.failures():
        raise GraphError(
            f"{graph} was not accepted when it was exported.{_export_again(exported.contract)}"
        )
    return exported


def _export_again(contract: GraphContract) -> str:
    """The line that ends a message about a graph without evidence, as far as the contract knows.

    Under a new name: the file may have been changed on purpose. The rewrites' level is left out,
    as another release may have others.
    """
    source = contract.source
    if source.module:
        command = ["--module", source.module.factory]
        command += [] if source.file == source.module.factory else ["--weights", source.file]
    else:
        command = [source.file]
    command += ["-o", "new.onnx", "--precision", contract.precision]
    command += ["--tensor-level"] if contract.kind == "tensor" else []
    command += ["--batch", str(contract.batch)] if contract.batch else []
    command += ["--size", "x".join(map(str, contract.size))] if contract.size else []
    words = shlex.join(["pconv-deploy", "export", *command])
    return "\n  Export it again: " + words.encode(errors="replace").decode()
