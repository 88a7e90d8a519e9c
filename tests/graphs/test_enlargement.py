"""Which resizes are proved to enlarge by whole numbers."""

import onnx_ir as ir
import pytest

from pconv_deploy.graphs.enlargement import nearest_scales

Shape = list[int | str | None]
NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def by_sizes(source: Shape, result: Shape, **more: object) -> ir.Node:
    x, sizes = ir.val("x", ir.DataType.FLOAT, source), ir.val("sizes", ir.DataType.INT64, [4])
    node = ir.node("Resize", [x, None, None, sizes], {**NEAREST, **more})  # type: ignore[dict-item]
    node.outputs[0].shape = ir.Shape(result)
    return node


WHOLE: list[tuple[Shape, Shape, tuple[float, ...]]] = [
    ([1, 3, 4, 6], [1, 3, 8, 18], (1, 1, 2, 3)),
    (["n", 3, "4*s30", "s18"], ["n", 3, "8*s30", "2*s18"], (1, 1, 2, 2)),
    (["n", 3, "2*a", 5], ["n", 3, "2*a", 5], (1, 1, 1, 1)),
]


@pytest.mark.parametrize(("source", "result", "scales"), WHOLE)
def test_sizes_that_are_whole_multiples(
    source: Shape, result: Shape, scales: tuple[float, ...]
) -> None:
    assert nearest_scales(by_sizes(source, result)) == scales


OTHERS: list[tuple[Shape, Shape]] = [
    ([1, 3, 4, 4], [1, 3, 8, 9]),
    ([1, 3, 4, 4], [1, 3, 8, 2]),
    ([1, 3, 4, 4], [2, 3, 8, 8]),
    ([1, 3, 4, 4], [1, 6, 8, 8]),
    ([1, 3, 0, 4], [1, 3, 0, 8]),
    ([1, 3, "2*a", 4], [1, 3, "3*a", 8]),
    ([1, 3, "2*a", 4], [1, 3, "4*b", 8]),
    ([1, 3, "a + 1", 4], [1, 3, "a + 1", 8]),
    ([1, 3, "a", 4], [1, 3, "2*a + 2", 8]),
    ([1, 3, "a", 4], [1, 3, 8, 8]),
    ([1, 3, 4, 4], [1, 3, "8*a", 8]),
    ([1, 3, None, 4], [1, 3, None, 8]),
    ([1, 3, 4], [1, 3, 8]),
    ([1, 3, 4, 4], []),
]


@pytest.mark.parametrize(("source", "result"), OTHERS)
def test_other_sizes(source: Shape, result: Shape) -> None:
    assert nearest_scales(by_sizes(source, result)) is None


def test_sizes_that_keep_the_aspect_ratio_or_name_their_axes() -> None:
    shapes: tuple[Shape, Shape] = ([1, 3, 4, 4], [1, 3, 8, 8])
    assert nearest_scales(by_sizes(*shapes)) == (1, 1, 2, 2)
    assert nearest_scales(by_sizes(*shapes, keep_aspect_ratio_policy="not_larger")) is None
    assert nearest_scales(by_sizes(*shapes, axes=[0, 1, 3, 2])) is None
