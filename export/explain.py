"""What each rewrite did to a graph: where it fired, the work before and after, the error after."""

from dataclasses import dataclass

import onnx

from pconv_deploy.export.rewrites.pipeline import Step
from pconv_deploy.export.rewrites.work import multiply_adds
from pconv_deploy.export.verify import Reference

_SIDE = 512


@dataclass(frozen=True)
class ExplainedStep:
    """A graph behind one rewrite.

    step           None: as it was traced
    multiply_adds  of its convolutions, for one image of 512x512 or of the graph's own size
    error          relative, against the literal network in double precision
    """

    step: Step | None
    multiply_adds: int
    error: float


def explain_step(step: Step | None, model: onnx.ModelProto, reference: Reference) -> ExplainedStep:
    """Count a graph's work and compare it."""
    height, width = reference.contract.size or (_SIDE, _SIDE)
    worst = reference.compare(model).worst_error
    assert worst is not None
    return ExplainedStep(step, multiply_adds(model, height, width), worst)
