"""Which windows of a frame a hole needs, on every level of the network."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

WINDOWS = "windows"
_STEP = 32  # pixels by which windows grow: runtimes prepare themselves for every new size

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, bottom, right


class WindowRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the second entry of an engine takes.

    margins  of each level, from the frame's on: at this distance of its edge a window is right
    most     how many windows a call takes, all of one size
    """

    margins: tuple[int, ...]
    most: int

    @property
    def rows(self) -> int:
        """Return the number of rows of `windows`."""
        return 2 * self.most * 2 * len(self.margins)

    def own(self, level: int) -> int:
        """Return the number of the slice of a value of the frame that is as large as a window."""
        return 2 * level

    def read_by_next(self, level: int, *, within: bool) -> int:
        """Return the number of the slice, one level deeper, that a window is enlarged from."""
        assert within == (level + 1 < len(self.margins))
        return 2 * level + 1

    def rows_of(self, number: int) -> list[int]:
        """Return the rows that hold the starts of a slice; the next ones hold its ends."""
        return [2 * (number * self.most + window) for window in range(self.most)]

    def size(self, box: Size, frame: Size) -> Size:
        """Return the size of a window that holds a hole's box, wherever it lies."""
        margin = 2 * self.margins[0] + 1
        return tuple(  # type: ignore[return-value]
            min(side, _up(length + margin, _STEP)) for length, side in zip(box, frame, strict=True)
        )

    def plan(
        self, holes: Sequence[tuple[int, Box]], size: Size, frame: Size
    ) -> tuple[NDArray[np.int64], list[Size]]:
        """Place one window around each hole.

        Args:
            holes: at most `most` of them: the number of the frame, and a box in it.
            size: of all windows, of `size` for the largest box.
            frame: height and width, multiples of what the network takes.

        Returns:
            What the engine takes as `windows`, and the top left corner of each window.
        """
        corners = np.zeros((2 * len(self.margins), self.most, 2, 3), np.int64)
        tops: list[Size] = []
        for number, (index, box) in enumerate(holes):
            axes = [
                self._along(box[axis], box[axis + 2], size[axis], frame[axis]) for axis in (0, 1)
            ]
            tops.append((axes[0][0][0], axes[1][0][0]))
            for place, (rows, cols) in enumerate(zip(*axes, strict=True)):
                # Inside of a decoder the frames are the windows of this call.
                one = index if self._of_frame(place) else number
                corners[place, number] = (one, rows[0], cols[0]), (one + 1, rows[1], cols[1])
        # What is not used is of the same size, and of no frame.
        corners[:, len(holes) :, :, 1:] = corners[:, :1, :, 1:]
        return corners.reshape(self.rows, 3), tops

    def _of_frame(self, place: int) -> bool:
        return place % 2 == 0 or place == 2 * len(self.margins) - 1

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


def _up(length: int, step: int) -> int:
    return length + -length % step
