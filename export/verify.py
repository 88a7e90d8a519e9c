"""The exported graph against the checkpoint it came from.

The reference is the literal formulation (`pconv_deploy.literal`) in double precision with the
checkpoint's own weights: no folding, no mask collapse, nothing of the exported arithmetic.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from pconv_deploy.checkpoint import Checkpoint
from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT, GraphContract
from pconv_deploy.export.graphs import DeploymentGraph, TensorGraph
from pconv_deploy.literal import LiteralPConvUNet
from pconv_deploy.onnx_file import with_raw_output
from pconv_deploy.parity import (
    LEVEL_TOLERANCE,
    RELATIVE_TOLERANCE,
    Arrays,
    ParityReport,
    compare,
    parity_batches,
    run_batches,
)


def compare_with_checkpoint(
    model: onnx.ModelProto, contract: GraphContract, checkpoint: Checkpoint
) -> ParityReport:
    """Fill every parity case with the ONNX model and with the literal network."""
    shown = model if contract.kind == "tensor" else with_raw_output(model)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run_onnx(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    literal = literal_graph(checkpoint, contract.kind)

    def run_literal(inputs: Arrays) -> Arrays:
        image, hole_mask = (_tensor(inputs[name]) for name in (IMAGE, HOLE_MASK))
        with torch.no_grad():
            outputs = literal(image, hole_mask)
        if contract.kind == "tensor":
            return {OUTPUT: outputs.numpy()}
        return {FILLED: outputs[0].numpy(), RAW_OUTPUT: outputs[1].numpy()}

    batches = parity_batches(contract)
    references = run_batches(run_literal, contract, batches)
    candidates = run_batches(run_onnx, contract, batches)
    cases = [case for batch in batches for case in batch]
    return ParityReport(
        reference="the literal network, PyTorch float64",
        candidate=f"exported graph, {contract.precision}, ONNX Runtime {onnxruntime.__version__}",
        tolerance=RELATIVE_TOLERANCE[contract.precision],
        level_tolerance=LEVEL_TOLERANCE,
        cases=tuple(map(compare, cases, references, candidates)),
    )


def literal_graph(checkpoint: Checkpoint, kind: str) -> DeploymentGraph | TensorGraph:
    """The checkpoint's network, literal and in double precision, between the graph's ends."""
    network = LiteralPConvUNet(checkpoint.model.config)
    network.load_state_dict(checkpoint.model.state_dict())
    surround = TensorGraph if kind == "tensor" else DeploymentGraph
    return surround(network, checkpoint.normalisation).double().eval()


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # Bytes stay bytes; numbers are compared in double precision.
    return torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float64))
