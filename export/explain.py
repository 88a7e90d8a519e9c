"""Measure what each rewrite did to a graph: multiply-adds and error after it."""

from dataclasses import dataclass

import onnx

from pconv_deploy.contract import GraphContract
from pconv_deploy.export.verify import Reference
from pconv_deploy.graphs.multiply_adds import multiply_adds
from pconv_deploy.graphs.passes import Step
from pconv_deploy.parity import allowed_error

_SIDE = 512


@dataclass(frozen=True)
class ExplainedStep:
    """A graph after one rewrite.

    step           None: as it was traced
    multiply_adds  of its convolutions alone, for one image of `counted_size`
    error          relative, in single precision, against the reference in double precision
    allowed        of that error: more where rounding alone does more to the reference itself
    """

    step: Step | None
    multiply_adds: int
    error: float
    allowed: float


def explain_step(step: Step | None, model: onnx.ModelProto, reference: Reference) -> ExplainedStep:
    """Count a graph's multiply-adds and compare it with the reference."""
    report = reference.compare(model)
    assert report.worst_error is not None
    return ExplainedStep(
        step,
        multiply_adds(model, *counted_size(reference.contract)),
        report.worst_error,
        max(allowed_error(report.tolerance, case.reference_error) for case in report.cases),
    )


def counted_size(contract: GraphContract) -> tuple[int, int]:
    """Return the height and width for counting work: the graph's own, or nearest to 512."""
    multiple = contract.size_multiple
    side = max(1, round(_SIDE / multiple)) * multiple
    return contract.size or (side, side)
