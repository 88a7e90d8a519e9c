"""An engine with two entries: for each image, the cheaper one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.sessions import Session
from pconv_deploy.engines.windows.plan import WINDOWS, WindowCosts, WindowRule, common_size
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.boxes import Box, Size, hole_boxes
from pconv_deploy.parity import Arrays


@dataclass(frozen=True)
class WindowSession:
    """Computes only the windows that holes need, where that is cheaper than the whole frame.

    whole     the engine's first entry
    windowed  its second
    rule      what windows the second one takes
    costs     what both cost; None: windows whatever they cost
    """

    whole: Session
    windowed: Session
    rule: WindowRule
    costs: WindowCosts | None

    def run(self, inputs: Arrays) -> Arrays:
        """Fill images of one size, as `Session.run`."""
        return self._run(inputs, None)

    def run_within(self, inputs: Arrays, sizes: Sequence[Size]) -> Arrays:
        """Fill padded images, as `WindowedSession.run_within`."""
        return self._run(inputs, sizes)

    def _run(self, inputs: Arrays, sizes: Sequence[Size] | None) -> Arrays:
        if not self._takes(inputs):
            return self.whole.run(inputs)  # which says what is wrong with them
        images, holes = inputs[IMAGE], inputs[HOLE_MASK]
        sizes = sizes or [holes.shape[1:]] * len(holes)
        chosen = [self._windows(hole, size) for hole, size in zip(holes, sizes, strict=True)]
        if all(boxes is None for boxes in chosen):
            return self.whole.run(inputs)
        filled = images.copy()
        others = [index for index, boxes in enumerate(chosen) if boxes is None]
        if others:
            rest = self.whole.run({IMAGE: images[others], HOLE_MASK: holes[others]})
            filled[others] = rest[FILLED]
        for index, boxes in enumerate(chosen):
            if boxes:
                self._fill(filled[index], images[index], holes[index], boxes)
        return {FILLED: filled}

    def close(self) -> None:
        self.whole.close()
        self.windowed.close()

    def _takes(self, inputs: Arrays) -> bool:
        if inputs.keys() != {IMAGE, HOLE_MASK}:
            return False
        image, hole_mask = inputs[IMAGE], inputs[HOLE_MASK]
        sides = hole_mask.shape[1:]
        return (
            {image.dtype, hole_mask.dtype} == {np.dtype(np.uint8)}
            and image.shape == (*hole_mask.shape, 3)
            and len(sides) == 2
            and not any(side % self.rule.multiple for side in sides)
        )

    def _windows(self, hole_mask: Bytes, size: Size) -> list[Box] | None:
        """Return the boxes that get a window each; None: the whole frame is cheaper."""
        height, width = hole_mask.shape
        boxes = hole_boxes(hole_mask[: size[0], : size[1]] != 0)
        costs = self.costs or WindowCosts(whole=np.inf, encoder=0, decoder=1)
        return costs.cheapest(boxes, (height, width), self.rule) if boxes else []

    def _fill(self, filled: Bytes, image: Bytes, hole_mask: Bytes, boxes: list[Box]) -> None:
        height, width = hole_mask.shape
        size = common_size(boxes, (height, width), self.rule)
        windows, corners = self.rule.place(boxes, size, (height, width))
        results = self.windowed.run(
            {IMAGE: image[None], HOLE_MASK: hole_mask[None], WINDOWS: windows}
        )[FILLED]
        # The rest of a window may hold parts of other holes, wrong at its edge.
        for (top, left, bottom, right), (y, x), result in zip(boxes, corners, results, strict=True):
            filled[top:bottom, left:right] = result[top - y : bottom - y, left - x : right - x]
