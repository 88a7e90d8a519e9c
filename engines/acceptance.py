"""A built engine against the graph it came from, before anyone relies on it.

The reference is the graph itself, run by ONNX Runtime node by node with every optimisation
off: slow, and none of what a runtime does to a graph to make it fast.
"""

from pconv_deploy.engines.base import Session
from pconv_deploy.onnx_file import ExportedGraph
from pconv_deploy.onnx_run import graph_run
from pconv_deploy.parity import ParityReport, compare_runs


def compare_with_graph(session: Session, exported: ExportedGraph, engine: str) -> ParityReport:
    """Fill every parity case on both sides; `engine` names the engine in the report.

    Raises:
        GraphError: ONNX Runtime cannot run the graph.
        MissingRuntimeError: ONNX Runtime, the reference, is not installed.
        ParityError: the engine's outputs are not those of the contract.
    """
    return compare_runs(
        graph_run(exported.model, exported.contract, optimised=False),
        session.run,
        exported.contract,
        ("the exported graph, unoptimised", engine),
    )
