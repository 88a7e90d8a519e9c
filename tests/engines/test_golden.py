from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pconv_deploy.contract import deployment_specs, tensor_specs
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.golden import (
    Allowance,
    GoldenCase,
    allowance,
    difference,
    make_case,
    read_case,
)
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.parity import ParityCase, ParityReport


@pytest.mark.parametrize(
    ("batch", "size", "kind"),
    [(None, None, "deployment"), (3, (16, 32), "deployment"), (None, (128, 64), "tensor")],
)
def test_the_case_has_a_size_that_the_graph_takes(
    graph: Path, *, batch: int | None, size: tuple[int, int] | None, kind: Any
) -> None:
    specs = (deployment_specs if kind == "deployment" else tensor_specs)(batch, size)
    contract = msgspec.structs.replace(
        read_graph(graph).contract,
        kind=kind,
        batch=batch,
        size=size,
        inputs=specs[0],
        outputs=specs[1],
    )

    class Grey:
        """Fills everything with grey."""

        def run(self, inputs: Any) -> Any:
            image = inputs["image"]
            assert len(image) == (batch or 1)
            if kind == "tensor":
                return {"output": np.full_like(image, 0.5)}
            hole = inputs["hole_mask"][..., None] != 0
            return {"filled": np.where(hole, np.uint8(128), image)}

        def close(self) -> None: ...

    case = make_case(Grey(), contract, Built())
    assert case is not None
    assert case.image.shape[:2] == (size or (64, 64))
    assert 0 < case.hole.sum() <= case.hole.size / 4
    assert (case.filled[case.hole] == 128).all()
    assert (case.filled[~case.hole] == case.image[~case.hole]).all()
    again = read_case(case.to_png())
    for one, other in zip(
        (case.image, case.hole, case.filled), (again.image, again.hole, again.filled), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert len(case.to_png()) < 8000


def test_how_far_a_case_may_come_out_elsewhere() -> None:
    def report(apart: int) -> ParityReport:
        case = ParityCase(
            name="",
            hole_share=0.1,
            error_inside=0.0,
            error_outside=None,
            level_difference=0,
            composite_difference=apart,
            known_identical=True,
            finite=True,
        )
        return ParityReport(
            reference="", candidate="", tolerance=1e-5, level_tolerance=1, cases=(case,)
        )

    assert allowance("fp32", report(1)) == Allowance(levels=1)
    assert allowance("fp32", report(3)) == Allowance(levels=6)  # it magnifies rounding
    assert allowance("bf16", report(9)) == Allowance(psnr=35.0)
    assert allowance("int8", report(9)) == Allowance(psnr=38.0)
    image, hole = np.zeros((8, 8, 3), np.uint8), np.eye(8) != 0
    case = GoldenCase(image, hole, image)
    assert difference(case, image).psnr == float("inf")
    off = difference(case, np.where(hole[..., None], np.uint8(3), image))
    assert (off.levels, round(off.psnr, 1), off.known_identical) == (3, 38.6, True)
    assert off.within(Allowance(psnr=38.0))
    assert not off.within(Allowance(psnr=39.0))
    assert not off.within(Allowance())
