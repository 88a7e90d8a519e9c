"""Run exported graphs by ONNX Runtime on the CPU, for comparisons."""

from typing import TYPE_CHECKING

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import GraphError, MissingRuntimeError
from pconv_deploy.graphs.file import with_raw_output
from pconv_deploy.parity import Arrays, Run

if TYPE_CHECKING:
    import onnx

_ERRORS_ONLY = 3


def graph_run(model: "onnx.ModelProto", contract: GraphContract, *, optimised: bool) -> Run:
    """Load a graph; return a function that computes every output and the raw output.

    A half-precision graph is computed in single precision, with every value rounded to half.

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
    if contract.precision != "fp32":  # which no processor is sure to compute in
        return model_run(_rounded_in_single(shown), optimised=False)
    return model_run(shown, optimised=optimised)


def model_run(model: "onnx.ModelProto", *, optimised: bool) -> Run:
    """Load any model; return a function that computes every output. Raises as `graph_run`."""
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


def _rounded_in_single(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a half-precision graph in single precision, values rounded as they are made.

    It computes on any processor what one with half-precision units does, which add up in
    single precision and round what they store.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, numpy_helper
    from onnx.inliner import inline_local_functions

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    plain = onnx.shape_inference.infer_shapes(inline_local_functions(model))
    types = {v.name: v.type.tensor_type.elem_type for v in plain.graph.value_info}
    for tensor in plain.graph.initializer:
        if tensor.data_type in halves:
            exact = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
    nodes = list(plain.graph.node)
    del plain.graph.node[:], plain.graph.value_info[:]
    for node in nodes:
        if node.op_type == "Cast" and node.attribute[0].i in halves:
            node.attribute[0].i = TensorProto.FLOAT
        kept = plain.graph.node.add()
        kept.CopyFrom(node)
        for index, name in enumerate(node.output):
            if types.get(name) in halves:
                wide, half = f"{name}.wide", f"{name}.half"
                kept.output[index] = wide
                to_half = onnx.helper.make_node("Cast", [wide], [half], to=types[name])
                back = onnx.helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT)
                plain.graph.node.extend([to_half, back])
    return plain
