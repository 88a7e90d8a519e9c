"""Optimization profiles: the shapes an engine takes, in a few narrow ranges.

A kernel that is fast at one 512x512 image is not the one for eight of 1024x1024; each profile has
its own, and a request goes to the smallest that takes it.
"""

from collections.abc import Sequence

from pconv_deploy.contract import GraphContract, TensorSpec
from pconv_deploy.engines.shapes import Profile, Shape, require_distinct
from pconv_deploy.engines.windows.plan import WindowRule
from pconv_deploy.errors import UsageError

# Largest batch and side of each, which are also what it is fastest at.
_LADDER = ((1, 512), (1, 1024), (8, 512), (8, 1024), (32, 512))


def profiles_for(contract: GraphContract, wanted: Sequence[Profile] = ()) -> tuple[Profile, ...]:
    """Decide on the profiles of an engine.

    Args:
        contract: of the graph.
        wanted: the user's own; none takes the ladder.

    Raises:
        UsageError: a wanted profile does not fit the graph, or is a duplicate.
    """
    require_distinct(wanted)
    for profile in wanted:
        _refuse_misfit(profile, contract)
    return tuple(wanted) or _ladder(contract)


def _ladder(contract: GraphContract) -> tuple[Profile, ...]:
    """Batches of 1, 8 and 32, sides up to 512 and 1024, as far as the graph leaves them free."""
    multiple = contract.size_multiple
    smallest = contract.size or (multiple, multiple)
    profiles = []
    for batch, side in _LADDER:
        rounded = max(1, side // multiple) * multiple
        largest = (contract.batch or batch, *(contract.size or (rounded, rounded)))
        low = (contract.batch or 1, *smallest)
        profiles.append(Profile(min=low, opt=largest, max=largest))
    return tuple(dict.fromkeys(profiles))


def _refuse_misfit(profile: Profile, contract: GraphContract) -> None:
    for shape in (profile.min, profile.opt, profile.max):
        batch, *sides = shape
        fits = batch == (contract.batch or batch) and tuple(sides) == (contract.size or (*sides,))
        if not fits or any(side % contract.size_multiple for side in sides):
            raise UsageError(
                f"found a profile with {show(shape)}; this graph takes {contract.describe_shapes()}"
            )


def tensor_shape(spec: TensorSpec, shape: Shape) -> tuple[int, ...]:
    """The shape of one tensor of a graph at (batch, height, width)."""
    sizes = dict(zip(("batch", "height", "width"), shape, strict=True))
    return tuple(sizes[n] if isinstance(n, str) else n for n in spec.shape)


def show(shape: Shape) -> str:
    """(1, 256, 512) -> '1x256x512'."""
    return "x".join(map(str, shape))


def window_profiles(
    profiles: Sequence[Profile], rule: WindowRule
) -> tuple[tuple[Profile, int], ...]:
    """Return the profiles of a decoder of windows: sizes of one image, and a number of windows.

    Each number has profiles of its own. Where it is left open, TensorRT does not see that a slice
    is of one window: it sets memory aside for all of them in each slice, on every level again.

    Args:
        profiles: of the whole frame.
        rule: of the windows; sides become multiples of what it takes.
    """

    def fitted(shape: Shape) -> Shape:
        height, width = (max(1, side // rule.multiple) * rule.multiple for side in shape[1:])
        return 1, height, width

    frames = dict.fromkeys(
        Profile(min=fitted(p.min), opt=fitted(p.opt), max=fitted(p.max))
        for p in profiles
        if p.min[0] == 1
    )
    return tuple((frame, count) for frame in frames for count in range(1, rule.most + 1))


def windows_within(
    profile: Profile, rule: WindowRule, count: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the least, usual and largest values of the input that places `count` windows.

    Its rows are (frame, y, x). `count` determines the frames; y and x may be anywhere in the image.
    """
    frame = profile.opt[1:]
    side = min(frame) // 8
    top, left = ((length - side) // 2 for length in frame)
    hole = (top, left, top + side, left + side)
    usual, _ = rule.place([hole] * count, rule.size((side, side), frame), frame)
    least, largest = usual.copy(), usual.copy()
    least[:, 1:], largest[:, 1:] = 0, profile.max[1:]
    return least.ravel().tolist(), usual.ravel().tolist(), largest.ravel().tolist()
