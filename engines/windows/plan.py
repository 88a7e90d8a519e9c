"""Which windows of a frame a hole needs, on every level of the network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.images.boxes import Box, Size, merged

if TYPE_CHECKING:
    import onnx

WINDOWS = "windows"  # the input of the second entry
WHOLE_LEVELS = 2  # the deepest ones: their windows would be nearly the frame
_STEP = 32  # pixels by which windows grow: runtimes prepare themselves for every new size
_WORTH = 0.9  # of the whole frame's time: what a window has to be below


class WindowRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the second entry of an engine takes.

    margins  of each level, from the frame's on: at this distance of its edge a window is right
    most     how many windows a call takes, all of one size
    """

    margins: tuple[int, ...]
    most: int

    @property
    def multiple(self) -> int:
        """Return what the sides of a frame are multiples of."""
        return 1 << (len(self.margins) - 1 + WHOLE_LEVELS)

    @property
    def rows(self) -> int:
        """Return the number of rows of `windows`."""
        return 2 * self.most * 2 * len(self.margins)

    def own(self, level: int) -> int:
        """Return the number of the slice of a value of the frame that is as large as a window."""
        return 2 * level

    def read_by_next(self, level: int) -> int:
        """Return the number of the slice, one level deeper, that a window is enlarged from."""
        return 2 * level + 1

    def rows_of(self, number: int) -> list[int]:
        """Return the rows that hold the starts of a slice; the next ones hold its ends."""
        return [2 * (number * self.most + window) for window in range(self.most)]

    def size(self, box: Size, frame: Size) -> Size:
        """Return the size of a window that holds a hole's box, wherever it lies."""
        margin = 2 * self.margins[0] + 1  # and one, as windows start at even pixels
        return tuple(  # type: ignore[return-value]
            min(side, _up(length + margin, _STEP)) for length, side in zip(box, frame, strict=True)
        )

    def place(
        self, holes: Sequence[Box], size: Size, frame: Size
    ) -> tuple[NDArray[np.int64], list[Size]]:
        """Place one window around each box of a hole.

        Args:
            holes: at most `most` boxes.
            size: of all windows, at least `size` of each box.
            frame: height and width, multiples of what the network takes.

        Returns:
            What the engine takes as `windows`, and the top left corner of each window.
        """
        corners = np.zeros((2 * len(self.margins), self.most, 2, 3), np.int64)
        tops: list[Size] = []
        for window, box in enumerate(holes):
            rows, cols = (
                self._along(box[axis], box[axis + 2], size[axis], frame[axis]) for axis in (0, 1)
            )
            tops.append((rows[0][0], cols[0][0]))
            for number, ((top, bottom), (left, right)) in enumerate(zip(rows, cols, strict=True)):
                # Inside of a decoder the frames are the windows of this call.
                index = 0 if self._of_frame(number) else window
                corners[number, window] = (index, top, left), (index + 1, bottom, right)
        # What is not used is of the same size, and of no frame.
        corners[:, len(holes) :, :, 1:] = corners[:, :1, :, 1:]
        return corners.reshape(self.rows, 3), tops

    def _of_frame(self, number: int) -> bool:
        """Return whether a slice is of a value of the whole frame, not of another window."""
        return number % 2 == 0 or number == 2 * len(self.margins) - 1

    def _along(self, low: int, high: int, length: int, side: int) -> list[tuple[int, int]]:
        """Return start and end of all slices along one axis, by their numbers.

        low, high  of what has to be right in the window
        length     of the window
        """
        windows: list[tuple[int, int]] = []
        for level, margin in enumerate(self.margins):
            if level:
                length = min(side, _up(length // 2 + 2 * margin + 1, 2))
            start = min(max((low - margin) // 2 * 2, 0), side - length)
            end = start + length
            assert start <= max(low - margin, 0)
            assert end >= min(high + margin, side)
            windows.append((start, end))
            low, high, side = start // 2, end // 2, side // 2
        slices = []
        for (start, end), (below, _) in zip(windows, [*windows[1:], (0, 0)], strict=True):
            slices += [(start, end), (start // 2 - below, end // 2 - below)]
        return slices


def write_rule(model: "onnx.ModelProto", rule: WindowRule) -> None:
    """Keep a rule with the graph that was made by it, for builders that are told shapes."""
    model.metadata_props.add(key=WINDOWS, value=msgspec.json.encode(rule).decode())


def rule_of(model: "onnx.ModelProto") -> WindowRule | None:
    """Return the rule that `windowed` made a graph by; None for any other graph."""
    if WINDOWS not in {value.name for value in model.graph.input}:
        return None  # whatever it says of itself
    (rule,) = (entry.value for entry in model.metadata_props if entry.key == WINDOWS)
    return msgspec.json.decode(rule, type=WindowRule)


class WindowCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fill costs, in nanoseconds for each pixel, as it was measured.

    whole    of the frame, without windows
    encoder  of the frame, with windows
    decoder  of each window
    """

    whole: float
    encoder: float
    decoder: float

    def cheapest(self, boxes: list[Box], frame: Size, rule: WindowRule) -> list[Box] | None:
        """Choose the windows for a hole; None: the whole frame is cheaper.

        Args:
            boxes: of the parts of the hole; they are merged where that is cheaper.
            frame: height and width.
            rule: of the engine.
        """
        pixels = frame[0] * frame[1]
        least, best = _WORTH * self.whole * pixels, None
        while boxes:
            if len(boxes) <= rule.most:
                height, width = common_size(boxes, frame, rule)
                cost = self.encoder * pixels + self.decoder * len(boxes) * height * width
                if cost < least:
                    least, best = cost, boxes
            if len(boxes) == 1:
                break
            boxes = merged(boxes)
        return best


def common_size(boxes: Sequence[Box], frame: Size, rule: WindowRule) -> Size:
    """Return the size of windows of which each holds one of these boxes."""
    sizes = [rule.size((bottom - top, right - left), frame) for top, left, bottom, right in boxes]
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def _up(length: int, step: int) -> int:
    return length + -length % step
