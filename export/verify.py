"""Compare an exported graph with the checkpoint or module it was made from.

The reference is the literal network (`pconv_deploy.network.reference`) with the checkpoint's own
weights, or the user's own module untouched, in double precision and between ends written here a
second time: no folding, no mask collapse, nothing of what is exported.
"""

import copy
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_deploy.checkpoints.native import Checkpoint
from pconv_deploy.contract import (
    HOLE_MASK,
    IMAGE,
    OUTPUT,
    RAW_OUTPUT,
    GraphContract,
    GraphPrecision,
    Normalisation,
    deployment_specs,
    tensor_specs,
)
from pconv_deploy.export.modules.double_precision import DoublePrecision
from pconv_deploy.export.target import ExportTarget
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.network.architectures import literal_network
from pconv_deploy.parity import (
    Arrays,
    ParityReport,
    Run,
    compare_runs,
    graph_inputs,
    own_error,
    parity_batches,
)

Fill = Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.float64]]


class Reference:
    """The reference's outputs for every parity case, computed once for any number of graphs.

    Args:
        target: what is exported.
        contract: of the graphs that are compared.
    """

    def __init__(self, target: ExportTarget, contract: GraphContract) -> None:
        self.contract = contract
        self._target = target
        number = "float64" if target.in_double else "float32"
        self._name = f"{target.reference_name}, PyTorch {number}"
        exact, rounded = (
            network_fill(target.reference, target.normalisation, dtype)
            for dtype in (getattr(torch, number), torch.float32)
        )
        self._exact = self._answering(exact)
        self._rounded = self._answering(rounded if target.in_double else _nudged(rounded))

    def compare(self, model: onnx.ModelProto, precision: GraphPrecision = "fp32") -> ParityReport:
        """Compare a model, whose features have this precision, on every parity case."""
        contract = msgspec.structs.replace(self.contract, precision=precision)
        return compare_runs(
            self._exact,
            graph_run(model, contract, optimised=True),
            contract,
            (
                self._name,
                f"exported graph, {precision}, ONNX Runtime {onnxruntime.__version__}",
            ),
            # Rounding in half precision is coarse: in which of the cases it carries far is chance.
            reference_in_precision=self._rounded
            if precision == "fp32"
            else own_error(self._exact, self._stored_in(precision), contract),
        )

    def overflows(self) -> bool:
        """Return whether the reference itself returns NaN or infinity in any case."""
        batches = (graph_inputs(batch, self.contract) for batch in parity_batches(self.contract))
        return not all(
            np.isfinite(output).all()
            for inputs in batches
            for run in (self._exact, self._rounded)
            for output in run(inputs).values()
        )

    def _stored_in(self, precision: GraphPrecision) -> Run:
        """Make the reference in single precision with weights and layer outputs rounded to half."""
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        network = copy.deepcopy(self._target.reference).float()
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = _rounded(tensor.data, half)
        for module in network.modules():
            module.register_forward_hook(lambda _module, _inputs, outputs: _rounded(outputs, half))
        return self._answering(network_fill(network, self._target.normalisation, torch.float32))

    def _answering(self, fill: Fill) -> Run:
        """Make a run that returns the raw output and computes each batch once."""
        answers: dict[bytes, Arrays] = {}

        def run(inputs: Arrays) -> Arrays:
            image, hole_mask = inputs[IMAGE], inputs[HOLE_MASK]
            question = hashlib.sha256(image.tobytes() + hole_mask.tobytes()).digest()
            if question not in answers and self.contract.kind == "tensor":
                answers[question] = {OUTPUT: fill(image, hole_mask == 0)}
            elif question not in answers:
                colours = np.moveaxis(image, -1, 1) / 255.0  # NHWC bytes -> NCHW, 0..1
                answers[question] = {RAW_OUTPUT: fill(colours, hole_mask[:, None] == 0)}
            return answers[question]

        return run


def reference_at_odd_multiples(target: ExportTarget, contract: GraphContract) -> Reference | None:
    """Make the reference of a user's module at sides of 3 and 5 multiples, if that can differ.

    Its code may decide by its sides (`if height % 16`), and where these are multiples, torch.export
    may take for granted that all decide as those traced. The usual cases would not show it:
    their sides, 64 and 128 of small multiples, are like those traced.
    """
    multiple = contract.size_multiple
    if target.source.module is None or contract.size is not None or multiple >= 64:
        return None
    size = (3 * multiple, 5 * multiple)
    specs = tensor_specs if contract.kind == "tensor" else deployment_specs
    inputs, outputs = specs(contract.batch, size)
    fixed = msgspec.structs.replace(contract, size=size, inputs=inputs, outputs=outputs)
    return Reference(target, fixed)


def _rounded(value: Any, dtype: torch.dtype) -> Any:
    """Round every floating-point tensor in what a module returns."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype).to(value.dtype)
    return tuple(_rounded(v, dtype) for v in value) if isinstance(value, tuple) else value


def _nudged(fill: Fill) -> Fill:
    """Perturb the image's last bits, to estimate the rounding error."""

    def filled(colours: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.float64]:
        signs = np.random.default_rng(0).choice([-1, 1], colours.shape)
        return fill(colours * (1 + signs * np.finfo(np.float32).eps), known)

    return filled


def literal_fill(checkpoint: Checkpoint, dtype: torch.dtype = torch.float64) -> Fill:
    """Return a function from colours and known pixels to the literal network's output.

    colours (N, 3, H, W) in 0..1, known (N, 1, H, W) -> (N, 3, H, W) float64, about 0..1; sides
    must be multiples of 2**levels. The network computes in `dtype`, the ends in float64.
    """
    return network_fill(literal_network(checkpoint.model).eval(), checkpoint.normalisation, dtype)


def network_fill(network: nn.Module, normalisation: Normalisation, dtype: torch.dtype) -> Fill:
    """Return the same function for any network (image, known) -> image in evaluation mode.

    The network is copied.
    """
    network = copy.deepcopy(network).to(dtype)
    mean, std = (
        np.array(values, np.float64).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )

    def fill(colours: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.float64]:
        normalised = (colours.astype(np.float64) - mean) / std
        with torch.no_grad(), DoublePrecision() if dtype == torch.float64 else nullcontext():
            output = network(
                torch.from_numpy(normalised).to(dtype), torch.from_numpy(known).to(dtype)
            )
        filled: NDArray[np.float64] = output.double().numpy() * std + mean
        return filled

    return fill
