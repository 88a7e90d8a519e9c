"""The second entry computes in a window what the first computes in the whole frame."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import helper

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.windows.graph import windowed
from pconv_deploy.engines.windows.grids import WindowError
from pconv_deploy.engines.windows.plan import WINDOWS, WindowRule, common_size
from pconv_deploy.graphs.file import ExportedGraph, inlined, read_graph
from pconv_deploy.graphs.run import model_run
from pconv_deploy.images.boxes import Box
from pconv_deploy.parity import Run

FRAME = (160, 208)  # windows are 32 pixels at least
FORMS = [
    *(Arrangement(upsampling=(form,)) for form in get_args(Upsampling)),
    Arrangement(narrow_input=True, narrow_output=True),
    Arrangement(upsampling=("interleaved",), narrow_output=True, fused_epilogue=True),
    Arrangement(upsampling=("depth_to_space", "interleaved_nhwc"), narrow_output=True),
]


@pytest.fixture(scope="module")
def exported(graph: Path) -> ExportedGraph:
    return read_graph(graph)


def boxes_of(rng: np.random.Generator, count: int) -> list[Box]:
    """Boxes anywhere, at the borders of the frame as often as inside."""
    boxes = []
    for _ in range(count):
        (top, bottom), (left, right) = (
            sorted(int(n) for n in np.clip(rng.integers(-40, side + 40, 2), 0, side))
            for side in FRAME
        )
        boxes.append(
            (
                min(top, FRAME[0] - 1),
                min(left, FRAME[1] - 1),
                max(bottom, top + 1),
                max(right, left + 1),
            )
        )
    return [(t, l, min(b, FRAME[0]), min(r, FRAME[1])) for t, l, b, r in boxes]  # noqa: E741


def differences(runs: tuple[Run, Run], rule: WindowRule, boxes: list[Box], seed: int) -> int:
    """Fill a hole in these boxes by both, and return the largest difference inside of them."""
    whole, second = runs
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (1, *FRAME, 3), np.uint8)
    hole_mask = np.zeros((1, *FRAME), np.uint8)
    for top, left, bottom, right in boxes:
        part = rng.random((bottom - top, right - left)) < 0.6
        part[0, 0] = True
        hole_mask[0, top:bottom, left:right] |= part
    inputs = {IMAGE: image, HOLE_MASK: hole_mask}
    windows, corners = rule.place(boxes, common_size(boxes, FRAME, rule), FRAME)
    wanted = whole(inputs)[FILLED][0].astype(int)
    found = second({**inputs, WINDOWS: windows})[FILLED]
    assert len(found) == len(boxes)
    return max(
        int(np.abs(found[n, t - y : b - y, l - x : r - x] - wanted[t:b, l:r]).max())
        for n, ((t, l, b, r), (y, x)) in enumerate(zip(boxes, corners, strict=True))  # noqa: E741
    )


@pytest.mark.parametrize("arrangement", FORMS, ids=Arrangement.describe)
def test_windows_of_every_form_are_those_of_the_whole_frame(
    arrangement: Arrangement, exported: ExportedGraph
) -> None:
    model = arranged(exported.model, arrangement, exported.contract)
    second, rule = windowed(model, 3)
    onnx.checker.check_model(second)
    assert rule == WindowRule(margins=(1, 1, 1), most=3)
    runs = (model_run(model, optimised=True), model_run(second, optimised=True))
    rng = np.random.default_rng(1)
    for number in range(24):
        boxes = boxes_of(rng, 1 + number % rule.most)
        assert differences(runs, rule, boxes, number) == 0, boxes


def test_a_margin_that_is_too_small_would_be_seen(exported: ExportedGraph) -> None:
    """The windows above really end where they do: with one pixel less, they differ."""
    second, rule = windowed(exported.model, 1)
    tight = WindowRule(margins=(0, 0, 0), most=1)
    runs = (model_run(exported.model, optimised=True), model_run(second, optimised=True))
    box = (32, 64, 96, 128)  # a multiple of 32: its window has no pixel more than the hole
    assert differences(runs, rule, [box], 0) == 0
    image = np.zeros((1, *FRAME, 3), np.uint8)
    assert tight.place([box], (64, 64), FRAME)[1] == [(32, 64)]
    hole_mask = np.zeros((1, *FRAME), np.uint8)
    hole_mask[0, 32:96, 64:128] = 1
    image += np.arange(FRAME[1], dtype=np.uint8)[:, None]
    inputs = {IMAGE: image, HOLE_MASK: hole_mask}
    windows, _ = tight.place([box], (64, 64), FRAME)
    found = runs[1]({**inputs, WINDOWS: windows})[FILLED][0]
    assert (found != runs[0](inputs)[FILLED][0, 32:96, 64:128]).any()


def with_operator(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """Return a copy of a graph in which an operator follows its last activation."""
    changed = onnx.load_from_string(inlined(model.SerializeToString()))
    last = [n for n in changed.graph.node if n.op_type == "LeakyRelu"][-1]
    node.input.append(last.output[0])
    node.output.append("changed")
    for reader in changed.graph.node:
        for index, name in enumerate(reader.input):
            if name == last.output[0]:
                reader.input[index] = "changed"
    place = list(changed.graph.node).index(last) + 1
    changed.graph.node.insert(place, node)
    return changed


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (
            helper.make_node("InstanceNormalization", [], [], name="norm"),
            "norm .InstanceNormalization.: its arithmetic in a window is not known",
        ),
        (
            helper.make_node(
                "AveragePool", [], [], name="pool", kernel_shape=[3, 3], auto_pad="SAME_UPPER"
            ),
            "pool .AveragePool.: its padding is not given, or it is dilated",
        ),
        (
            helper.make_node(
                "MaxPool", [], [], name="pool", kernel_shape=[4, 4], pads=[1, 1, 1, 1]
            ),
            r"pool .MaxPool.: WindowOfAxis.taps=4.*along rows",
        ),
        (
            helper.make_node("Transpose", [], [], name="turn", perm=[0, 1, 3, 2]),
            "no rows and columns to",
        ),
    ],
)
def test_what_cannot_be_proved_is_refused_by_name(
    node: onnx.NodeProto, why: str, exported: ExportedGraph
) -> None:
    with pytest.raises(WindowError, match=why):
        windowed(with_operator(exported.model, node), 1)
