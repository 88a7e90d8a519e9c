"""Does a graph or an engine compute what its source computes? Cases, measures, verdict.

Both sides fill the same images through holes of every kind; what they return is compared
inside and outside the holes. Who computes the two sides is the caller's business.

`cases`: what is filled. `tolerances`: how far results may be apart. `comparison`: both sides
run and measured. `report`: what was found, and what is wrong with it.
"""

from pconv_deploy.parity.cases import (
    Arrays,
    Batch,
    ParityInput,
    few_inputs,
    graph_inputs,
    parity_batches,
    parity_inputs,
    pattern,
)
from pconv_deploy.parity.comparison import (
    Judged,
    Run,
    check_outputs,
    compare,
    compare_runs,
    own_error,
)
from pconv_deploy.parity.report import ParityCase, ParityReport
from pconv_deploy.parity.tolerances import (
    PRECISIONS,
    TOLERANCES,
    Arithmetic,
    Precision,
    Tolerance,
    allowed_error,
)

__all__ = [
    "PRECISIONS",
    "TOLERANCES",
    "Arithmetic",
    "Arrays",
    "Batch",
    "Judged",
    "ParityCase",
    "ParityInput",
    "ParityReport",
    "Precision",
    "Run",
    "Tolerance",
    "allowed_error",
    "check_outputs",
    "compare",
    "compare_runs",
    "few_inputs",
    "graph_inputs",
    "own_error",
    "parity_batches",
    "parity_inputs",
    "pattern",
]
