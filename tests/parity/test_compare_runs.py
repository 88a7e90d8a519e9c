"""Two sides run on the same cases, and judged by the row of their arithmetic."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.contract import (
    HOLE_MASK,
    IMAGE,
    OUTPUT,
    GraphContract,
    Normalisation,
    Source,
    UNetConfig,
    tensor_specs,
)
from pconv_deploy.parity import (
    TOLERANCES,
    Arithmetic,
    Arrays,
    Judged,
    Run,
    compare_runs,
    few_inputs,
    own_error,
)


def contract() -> GraphContract:
    inputs, outputs = tensor_specs(None, None)
    return GraphContract(
        kind="tensor",
        inputs=inputs,
        outputs=outputs,
        normalisation=Normalisation(),
        size_multiple=8,
        source=Source(file="x", sha256="0" * 64, network=UNetConfig()),
    )


def test_a_case_that_comes_again_is_computed_once_and_compared_each_time() -> None:
    asked: list[int] = []

    def reference(inputs: Arrays) -> Arrays:
        asked.append(len(inputs[IMAGE]))
        return {OUTPUT: inputs[IMAGE] * 2}

    def candidate(inputs: Arrays) -> Arrays:
        found = inputs[IMAGE] * 2
        found[4:, :, 3, 3] += 1  # in the last of a batch of five
        return {OUTPUT: found}

    one, other = few_inputs(16, 16)[:2]
    batches = ([one], [other, one, other, one, other])
    found = compare_runs(
        reference, candidate, contract(), ("a", "b"), judged=Judged("fp32", batches)
    )
    assert asked == [1, 1]
    assert [bool(list(found.complaints(case))) for case in found.cases] == [False] * 5 + [True]
    assert [case.name for case in found.cases][1:3] == [other.name, one.name]


@pytest.mark.parametrize("precision", ["fp16", "tf32", "bf16"])
def test_a_network_that_magnifies_rounding_may_not_be_off_everywhere(precision: Arithmetic) -> None:
    """One pixel may be off by as much as its network's rounding makes; all of them may not."""

    def reference(inputs: Arrays) -> Arrays:
        return {OUTPUT: np.full_like(inputs[IMAGE], 0.5)}

    def failures(off: NDArray[np.bool_]) -> list[str]:
        def candidate(inputs: Arrays) -> Arrays:
            return {OUTPUT: np.full_like(inputs[IMAGE], 0.5) + 0.02 * off.astype(np.float32)}

        judged = Judged(precision, [few_inputs(64, 64)])
        names = ("a", "b")
        return compare_runs(reference, candidate, contract(), names, 0.12, judged=judged).failures()

    everywhere = np.ones((64, 64), bool)
    needed = TOLERANCES[precision].pattern_psnr
    assert failures(everywhere) == [f"all holes: PSNR 34.0 dB, needed {needed:.1f} dB"]
    somewhere = np.zeros((64, 64), bool)
    somewhere[::8, ::8] = True
    assert failures(somewhere) == []


def test_rounding_is_measured_where_it_is_judged() -> None:
    """In the holes alone, or everywhere; the most of any case, against the largest value."""

    def exact(inputs: Arrays) -> Arrays:
        return {OUTPUT: np.full_like(inputs[IMAGE], 2)}

    def rounded(inputs: Arrays) -> Arrays:
        return {OUTPUT: np.where(inputs[HOLE_MASK] == 0, 2.5, 2.1)}

    assert own_error(exact, rounded, contract()) == pytest.approx(0.25)
    assert own_error(exact, rounded, contract(), outside=False) == pytest.approx(0.05)


def test_by_what_it_is_judged_decides_how_strictly() -> None:
    one = few_inputs(16, 16)[:1]

    def off(by: float) -> Run:
        return lambda inputs: {OUTPUT: np.ones_like(inputs[IMAGE]) + np.float32(by)}

    def passes(arithmetic: Arithmetic, by: float) -> bool:
        judged = Judged(arithmetic, [one])
        return not compare_runs(off(0), off(by), contract(), ("a", "b"), judged=judged).failures()

    assert [passes("fp32", by) for by in (5e-6, 1e-4)] == [True, False]
    assert [passes("tf32", by) for by in (1.2e-2, 3e-2)] == [True, False]
