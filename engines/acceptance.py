"""A built engine against the graph it came from, before anyone relies on it.

The reference is the graph itself, run by ONNX Runtime node by node with every optimisation
off: slow, and none of what a runtime does to a graph to make it fast.
"""

from pconv_deploy.engines.base import Session
from pconv_deploy.errors import GraphError, MissingRuntimeError
from pconv_deploy.onnx_file import ExportedGraph, with_raw_output
from pconv_deploy.parity import (
    LEVEL_TOLERANCE,
    RELATIVE_TOLERANCE,
    Arrays,
    ParityReport,
    compare,
    parity_batches,
    run_batches,
)


def compare_with_graph(session: Session, exported: ExportedGraph, candidate: str) -> ParityReport:
    """Fill every parity case on both sides; `candidate` names the engine in the report.

    Raises:
        MissingRuntimeError: ONNX Runtime, the reference, is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            "an engine is checked with ONNX Runtime: pip install 'pconv-deploy[onnxruntime]'"
        ) from error
    contract = exported.contract
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    shown = exported.model if contract.kind == "tensor" else with_raw_output(exported.model)
    plain = onnxruntime.InferenceSession(
        shown.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in plain.get_outputs()]

    def run_plain(inputs: Arrays) -> Arrays:
        return dict(zip(names, plain.run(names, dict(inputs)), strict=True))

    batches = parity_batches(contract)
    try:
        references = run_batches(run_plain, contract, batches)
    # ONNX Runtime's exceptions share no base class but Exception.
    except Exception as error:
        raise GraphError(f"ONNX Runtime cannot run the graph: {error}") from error
    candidates = run_batches(session.run, contract, batches)
    cases = [case for batch in batches for case in batch]
    return ParityReport(
        reference="the exported graph, unoptimised",
        candidate=candidate,
        tolerance=RELATIVE_TOLERANCE[contract.precision],
        level_tolerance=LEVEL_TOLERANCE,
        cases=tuple(map(compare, cases, references, candidates)),
    )
