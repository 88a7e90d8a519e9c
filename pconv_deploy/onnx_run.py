"""An exported graph run by ONNX Runtime on the CPU, for comparisons."""

from typing import TYPE_CHECKING

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import GraphError, MissingRuntimeError
from pconv_deploy.onnx_file import with_raw_output
from pconv_deploy.parity import Arrays, Run

if TYPE_CHECKING:
    import onnx

_ERRORS_ONLY = 3


def graph_run(model: "onnx.ModelProto", contract: GraphContract, *, optimised: bool) -> Run:
    """Load a graph; what comes back computes every output and the network's raw output.

    Args:
        model: the graph as it was exported.
        contract: the graph's own.
        optimised: false runs it node by node, with nothing of what a runtime does to a graph to
            make it fast.

    Raises:
        GraphError: ONNX Runtime cannot load the graph, or later, cannot run it.
        MissingRuntimeError: ONNX Runtime is not installed.
    """
    shown = model if contract.kind == "tensor" else with_raw_output(model)
    return model_run(shown, optimised=optimised)


def model_run(model: "onnx.ModelProto", *, optimised: bool) -> Run:
    """Load any model; what comes back computes every output. Raises as `graph_run`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            "graphs are compared with ONNX Runtime: pip install 'pconv-deploy[onnxruntime]'"
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    # ONNX Runtime's exceptions share no base class but Exception.
    except Exception as error:
        raise GraphError(f"ONNX Runtime cannot load the graph: {error}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        try:
            outputs = session.run(names, dict(inputs))
        except Exception as error:
            raise GraphError(f"ONNX Runtime cannot run the graph: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return run
