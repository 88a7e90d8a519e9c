"""Both sides run on the same cases, and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, IMAGE, OUTPUT, RAW_OUTPUT, GraphContract
from pconv_deploy.errors import ParityError
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.parity.cases import Arrays, Batch, ParityInput, graph_inputs, parity_batches
from pconv_deploy.parity.report import ParityCase, ParityReport
from pconv_deploy.parity.tolerances import TOLERANCES, Arithmetic, allowed_error

Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Judged:
    """By what a candidate is judged: its row of TOLERANCES, and what it fills."""

    arithmetic: Arithmetic
    batches: Sequence[Batch]


def own_error(exact: Run, rounded: Run, contract: GraphContract, *, outside: bool = True) -> float:
    """Largest relative error of a reference computed in fewer bits, over all cases.

    Args:
        exact: takes the inputs of the contract, returns the raw output.
        rounded: the same in fewer bits.
        contract: of both.
        outside: count what lies outside of the holes too.
    """
    raw_name = _raw_name(contract)
    errors = [0.0]
    for batch in parity_batches(contract):
        inputs = graph_inputs(batch, contract)
        pairs = zip(rounded(inputs)[raw_name], exact(inputs)[raw_name], strict=True)
        for case, pair in zip(batch, pairs, strict=False):  # a fixed batch is filled up
            errors.append(_error(*pair, None if outside else case.hole_mask != 0) or 0.0)
    return max(errors)


def compare_runs(
    reference: Run,
    candidate: Run,
    contract: GraphContract,
    names: tuple[str, str],
    reference_in_precision: Run | float | None = None,
    judged: Judged | None = None,
) -> ParityReport:
    """Fill every case on both sides and compare.

    A case that comes again, as the same object, is computed once by the reference.

    Args:
        reference: takes the inputs of the contract, returns the raw output alone: `output` of a
            tensor graph, `raw_output` (N, 3, H, W) of a deployment graph.
        candidate: returns every output of the contract, and `raw_output` if it can.
        contract: of the graph both stand for.
        names: who the reference and the candidate are, for the report.
        reference_in_precision: the reference computed in the candidate's precision: how exact
            an answer can be expected. Or by how much it was found to err in all such cases.
        judged: None takes the precision of the contract, and the usual cases.

    Raises:
        ParityError: the candidate's outputs are not those of the contract.
    """
    judged = judged or Judged(contract.precision, parity_batches(contract))
    tolerance = TOLERANCES[judged.arithmetic]
    exact = _Answers(reference, contract)
    rounded = (
        _Answers(reference_in_precision, contract)
        if callable(reference_in_precision)
        else reference_in_precision
    )
    cases: list[ParityCase] = []
    for batch in judged.batches:
        expected = exact.of(batch)
        errors = (
            [_error(*pair) for pair in zip(rounded.of(batch), expected, strict=True)]
            if isinstance(rounded, _Answers)
            else [rounded] * len(batch)
        )
        inputs = graph_inputs(batch, contract)
        found = candidate(inputs)
        check_outputs(found, contract, inputs[IMAGE])
        filled, raw = found.get(FILLED), found.get(_raw_name(contract))
        for i, case in enumerate(batch):
            cases.append(
                compare(
                    case,
                    expected[i].transpose(1, 2, 0),
                    filled=None if filled is None else filled[i],
                    raw=None if raw is None else raw[i].transpose(1, 2, 0),
                    reference_error=errors[i],
                    tolerance=tolerance.relative,
                )
            )
    return ParityReport(
        reference=names[0],
        candidate=names[1],
        tolerance=tolerance.relative,
        level_tolerance=tolerance.levels,
        psnr_needed=tolerance.pattern_psnr,
        outside_judged=tolerance.outside,
        cases=tuple(cases),
    )


class _Answers:
    """The raw outputs of one side, (3, H, W) of each case, computed once."""

    def __init__(self, run: Run, contract: GraphContract) -> None:
        self._run, self._contract = run, contract
        self._known: dict[int, NDArray[np.floating]] = {}

    def of(self, batch: Batch) -> list[NDArray[np.floating]]:
        new = list({id(case): case for case in batch if id(case) not in self._known}.values())
        if new:
            raw = self._run(graph_inputs(new, self._contract))[_raw_name(self._contract)]
            self._known |= {id(case): one for case, one in zip(new, raw, strict=False)}
        return [self._known[id(case)] for case in batch]


def compare(
    case: ParityInput,
    expected: NDArray[np.floating],
    *,
    filled: Bytes | None,
    raw: NDArray[np.floating] | None,
    tolerance: float,
    reference_error: float | None = None,
) -> ParityCase:
    """Measure a candidate's composite and raw output (H, W, 3) against the expected raw output."""
    assert filled is not None or raw is not None
    hole = case.hole_mask != 0
    inside = outside = levels = apart = identical = square_error = None
    finite = bool(np.isfinite(expected).all() and (raw is None or np.isfinite(raw).all()))
    scale = float(np.abs(expected).max()) if finite else 0.0
    differences: NDArray[Any] | None = None  # in the hole, of 255
    if raw is not None and finite:
        error = np.abs(raw.astype(np.float64) - expected) / (scale or 1.0)
        inside = float(error[hole].max()) if hole.any() else None
        outside = float(error[~hole].max()) if not hole.all() else None
    if filled is not None:
        # A network that answers in thousands has steps far smaller than its tolerance: what
        # the reference rounds to is an interval then, of one value where it is saturated.
        slack = allowed_error(tolerance, reference_error) * scale
        low, high = (_levels(expected[hole] + by) for by in (-slack, slack))
        found = filled[hole].astype(np.int64)
        levels = int(np.maximum(low - found, found - high).max(initial=0))
        differences = found - _levels(expected[hole])
        apart = int(np.abs(differences).max(initial=0))
        identical = bool((filled[~hole] == case.image[~hole]).all())
    elif raw is not None and finite:
        differences = 255.0 * (raw[hole].clip(0, 1) - expected[hole].clip(0, 1))
    if differences is not None and differences.size:
        square_error = float(np.square(differences / 255.0).mean())
    return ParityCase(
        name=case.name,
        hole_share=round(float(hole.mean()), 4),
        error_inside=inside,
        error_outside=outside,
        level_difference=levels,
        composite_difference=apart,
        hole_square_error=square_error,
        known_identical=identical,
        finite=finite,
        reference_error=reference_error,
    )


def _raw_name(contract: GraphContract) -> str:
    return OUTPUT if contract.kind == "tensor" else RAW_OUTPUT


def _error(
    found: NDArray[np.floating], expected: NDArray[np.floating], where: Hole | None = None
) -> float | None:
    """Largest difference (of some pixels) over the largest value; None if either is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return None
    scale = float(np.abs(expected).max()) or 1.0
    difference = np.abs(found.astype(np.float64) - expected)
    return float(difference[..., slice(None) if where is None else where].max(initial=0.0)) / scale


def _levels(colours: NDArray[np.floating]) -> NDArray[np.int64]:
    """0..1 -> 0..255; NaN as 0, which is reported elsewhere."""
    levels: NDArray[np.int64] = np.rint(np.nan_to_num(colours).clip(0, 1) * 255).astype(np.int64)
    return levels


def check_outputs(found: Arrays, contract: GraphContract, image: NDArray[Any]) -> None:
    """Compare what a graph returned with its contract.

    Every output of both kinds of graph has the shape of `image`, as the graph takes it.

    Raises:
        ParityError: an output is missing, or of another dtype or shape.
    """
    for spec in contract.outputs:
        output = found.get(spec.name) if isinstance(found, Mapping) else None
        if (
            not isinstance(output, np.ndarray)
            or output.dtype != spec.dtype
            or output.shape != image.shape
        ):
            what = (
                f"{output.dtype} {list(output.shape)}"
                if isinstance(output, np.ndarray)
                else "no array"
            )
            raise ParityError(f"{spec.name}: found {what}, needed {spec.dtype} {list(image.shape)}")
