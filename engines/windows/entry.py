"""Building the second entry of an engine, and proving it beside the first."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pconv_deploy.contract import HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.engines.base import Backend, Built, Progress, SharingBackend
from pconv_deploy.engines.golden import Allowance, GoldenCase, difference, run_case
from pconv_deploy.engines.sessions import EngineFiles, RunOptions, Session, files_just_built
from pconv_deploy.engines.windows.plan import WindowCosts, WindowRule
from pconv_deploy.engines.windows.session import WindowSession
from pconv_deploy.errors import EngineError, ParityError
from pconv_deploy.files import scratch_folder
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.images.boxes import Box, Size
from pconv_deploy.parity import Precision
from pconv_deploy.timing import Contender, take_turns

if TYPE_CHECKING:
    import onnx

NOT_ASKED_FOR = "not asked for"
_PREFIX = "windows-"  # of the second entry's files
_MOST = 4  # windows of a call
_PROVED_AT, _MEASURED_AT = 160, 512  # pixels, of the side of a frame, at least
_ROUNDS = 5
_SMALL, _LARGE = 64, 256  # pixels of 512, of the sides of the holes that are timed


class WindowEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The second entry of an engine; the manifest keeps it.

    worst_difference  steps of 0..255 by which its fills differed from those of the whole frame
    shared            files of the first entry that it uses, too
    """

    rule: WindowRule
    costs: WindowCosts
    worst_difference: int
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FirstEntry:
    """An engine as it is built so far; model: what it was built from, in `folder`."""

    backend: Backend
    contract: GraphContract
    precision: Precision
    model: "onnx.ModelProto"
    folder: Path

    def opened(self, folder: Path) -> Session:
        return self.backend.open(files_just_built(folder), self.precision, RunOptions())


def add_windows(
    first: FirstEntry, allowed: Allowance | None, progress: Progress
) -> WindowEntry | str:
    """Build the second entry of an engine into its folder, or say why it has none.

    Args:
        first: the engine.
        allowed: how much a fill may differ from the first entry's; None: that has not run.
        progress: is told each step.
    """
    if why := _no_windows(first) or ("" if allowed else "it has not run"):
        return why
    assert allowed is not None
    from pconv_deploy.engines.windows.graph import windowed
    from pconv_deploy.engines.windows.grids import WindowError

    progress("adding windows")
    try:
        second, rule = windowed(first.model, _MOST)
        if any(side % rule.multiple for side in first.contract.size or ()):
            return f"sides of its fixed size are no multiples of {rule.multiple}"
        with scratch_folder() as work:
            content = second.SerializeToString()
            first.backend.build(content, first.contract, first.precision, work)
            shared: tuple[str, ...] = ()
            if isinstance(first.backend, SharingBackend):
                shared = first.backend.share(first.folder, work)
            found = _proved(first, work, rule, allowed)
            for file in sorted(work.iterdir()):
                name = file.name if file.name in shared else f"{_PREFIX}{file.name}"
                (first.folder / name).write_bytes(file.read_bytes())
    except (WindowError, EngineError, ParityError) as error:
        return str(error)
    return msgspec.structs.replace(found, shared=shared)


def _no_windows(first: FirstEntry) -> str:
    if not first.backend.traits.windows:
        return f"the {first.backend.name} backend has none"
    if first.contract.kind != "deployment":
        return "its graph takes float tensors"
    if first.contract.batch not in (None, 1):
        return "its batch is fixed"
    return ""


def open_both(
    entry: WindowEntry, files: EngineFiles, open_files: Callable[[EngineFiles], Session]
) -> WindowSession:
    """Open both entries of an engine."""

    def own(name: str) -> str:
        return name if name in entry.shared else f"{_PREFIX}{name}"

    first = replace(files, read=cache(files.read))  # both get the same bytes of what they share
    second = replace(
        first,
        read=lambda name: first.read(own(name)),
        held=lambda name: first.held(own(name)),
    )
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(contextlib.closing(open_files(first)))
        session = WindowSession(whole, open_files(second), entry.rule, entry.costs)
        stack.pop_all()
    return session


def _proved(first: FirstEntry, work: Path, rule: WindowRule, allowed: Allowance) -> WindowEntry:
    """Compare both entries, and time them."""
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(contextlib.closing(first.opened(first.folder)))
        second = stack.enter_context(contextlib.closing(first.opened(work)))
        session = WindowSession(whole, second, rule, None)
        worst = compare_entries(session, first.contract, allowed)
        costs = _measured(session, _frame(first.contract, rule, _MEASURED_AT))
    return WindowEntry(rule=rule, costs=costs, worst_difference=worst)


def compare_entries(session: WindowSession, contract: GraphContract, allowed: Allowance) -> int:
    """Fill holes at borders and in corners, small and large, by both entries of an engine.

    Returns:
        The largest difference, in steps of 0..255.

    Raises:
        EngineError: one is larger than `allowed`, or an entry failed.
        ParityError: what an entry returned is no fill.
    """
    always, worst = replace(session, costs=None), 0
    image, holes = _cases(_frame(contract, session.rule, _PROVED_AT))
    for name, hole in holes.items():
        whole, windows = (
            run_case(entry, contract, Built(), image, hole) for entry in (session.whole, always)
        )
        found = difference(GoldenCase(image, hole, whole), windows)
        if not found.within(allowed):
            raise EngineError(
                f"in windows, {name} is filled otherwise than in the whole frame: "
                f"{found.describe(allowed)}"
            )
        worst = max(worst, found.levels)
    return worst


def describe_windows(entry: WindowEntry | None, why_not: str) -> str:
    """Say in one line for people what a small hole costs, or why as much as a large one."""
    if entry is None:
        return f"none: {why_not or 'built before there were any'}"
    frame = (_MEASURED_AT, _MEASURED_AT)
    tall, wide = entry.rule.size((_SMALL, _SMALL), frame)
    share = (
        entry.costs.encoder + entry.costs.decoder * tall * wide / _MEASURED_AT**2
    ) / entry.costs.whole
    return (
        f"a hole of {_SMALL}x{_SMALL} in {_MEASURED_AT}x{_MEASURED_AT} takes {share:.0%} of the "
        f"whole frame's time; at most {entry.worst_difference} of 255 off its fill"
    )


def _frame(contract: GraphContract, rule: WindowRule, least: int) -> Size:
    """Return a size of images that both entries take."""
    multiple = math.lcm(contract.size_multiple, rule.multiple)
    side = least + -least % multiple
    return contract.size or (side, side + multiple)


def _cases(frame: Size) -> tuple[Bytes, dict[str, Hole]]:
    """Return an image, and holes at borders and in corners, small and large, by their names."""
    rng = np.random.default_rng(0)
    height, width = frame
    image = rng.integers(0, 256, (*frame, 3), np.uint8)
    pixels: list[Box] = [
        (y, x, y + 1, x + 1)
        for y in (0, height // 2 - 1, height - 1)
        for x in (0, width // 2 - 1, width - 1)
    ]
    parts = {
        "one pixel in a corner": pixels[:1],
        "one pixel in the opposite corner": pixels[-1:],
        "one pixel in the middle": pixels[4:5],
        "pixels at all borders": pixels,
        "the upper half": [(0, 0, height // 2, width)],
        "a strip at the right": [(0, width - width // 8, height, width)],
        "a box in the middle": [(height // 3, width // 3, height // 2, width // 2)],
        "two boxes": [
            (height // 32, width // 32, height // 8 + 1, width // 5 + 1),
            (height * 3 // 4, width * 2 // 3, height, width),
        ],
    }
    return image, {name: _ragged(boxes, frame, rng) for name, boxes in parts.items()}


def _ragged(boxes: list[Box], frame: Size, rng: np.random.Generator) -> Hole:
    """Return a hole of most pixels of these boxes."""
    hole = np.zeros(frame, np.bool_)
    for top, left, bottom, right in boxes:
        part = rng.random((bottom - top, right - left)) < 0.7
        part[0, 0] = part[-1, -1] = True
        hole[top:bottom, left:right] = part
    return hole


def _measured(session: WindowSession, frame: Size) -> WindowCosts:
    """Time the whole frame, and windows of two sizes."""
    height, width = frame
    image = np.full((1, *frame, 3), 128, np.uint8)

    def inputs(side: int) -> dict[str, Bytes]:
        tall, wide = (max(1, length * side // _MEASURED_AT) for length in frame)
        hole = np.zeros((1, *frame), np.uint8)
        top, left = (height - tall) // 2, (width - wide) // 2
        hole[0, top : top + tall, left : left + wide] = 255
        return {IMAGE: image, HOLE_MASK: hole}

    def window(side: int) -> int:
        tall, wide = session.rule.size(
            (height * side // _MEASURED_AT, width * side // _MEASURED_AT), frame
        )
        return tall * wide

    seconds = take_turns(
        {
            "whole": Contender(lambda: session.whole.run(inputs(_SMALL)), pause=0),
            "small": Contender(lambda: session.run(inputs(_SMALL)), pause=0),
            "large": Contender(lambda: session.run(inputs(_LARGE)), pause=0),
        },
        _ROUNDS,
        warm_up=1,
    )
    whole, small, large = (1e9 * min(times) for times in seconds.values())
    grown = window(_LARGE) - window(_SMALL)
    decoder = max(0.0, (large - small) / grown) if grown else 0.0
    encoder = max(0.0, small - decoder * window(_SMALL)) / (height * width)
    return WindowCosts(
        whole=round(whole / (height * width), 3),
        encoder=round(encoder, 3),
        decoder=round(decoder, 3),
    )
