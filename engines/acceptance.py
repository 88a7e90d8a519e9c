"""A built engine against the graph it came from, before anyone relies on it.

The reference is the graph itself, run by ONNX Runtime node by node with every optimisation
off: slow, and none of what a runtime does to a graph to make it fast.
"""

from pconv_deploy.engines.base import Session
from pconv_deploy.errors import GraphError, MissingRuntimeError
from pconv_deploy.onnx_file import ExportedGraph, with_raw_output
from pconv_deploy.parity import Arrays, ParityReport, compare_runs


def compare_with_graph(session: Session, exported: ExportedGraph, engine: str) -> ParityReport:
    """Fill every parity case on both sides; `engine` names the engine in the report.

    Raises:
        GraphError: ONNX Runtime cannot run the graph.
        MissingRuntimeError: ONNX Runtime, the reference, is not installed.
        ParityError: the engine's outputs are not those of the contract.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            "an engine is checked with ONNX Runtime: pip install 'pconv-deploy[onnxruntime]'"
        ) from error
    contract = exported.contract
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    shown = exported.model if contract.kind == "tensor" else with_raw_output(exported.model)
    try:
        plain = onnxruntime.InferenceSession(
            shown.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    # ONNX Runtime's exceptions share no base class but Exception.
    except Exception as error:
        raise GraphError(f"ONNX Runtime cannot load the graph: {error}") from error
    names = [output.name for output in plain.get_outputs()]

    def run_plain(inputs: Arrays) -> Arrays:
        try:
            outputs = plain.run(names, dict(inputs))
        except Exception as error:
            raise GraphError(f"ONNX Runtime cannot run the graph: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return compare_runs(
        run_plain, session.run, contract, ("the exported graph, unoptimised", engine)
    )
