"""Optimization profiles: the shapes an engine takes, in a few narrow ranges.

A kernel that is fast at one 512x512 image is not the one for eight of 1024x1024; each profile has
its own, and a request goes to the smallest that takes it.
"""

from collections.abc import Sequence

from pconv_deploy.contract import GraphContract, TensorSpec
from pconv_deploy.engines.backends.tensorrt.options import Profile, Shape
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import Batch, few_inputs, parity_batches, parity_inputs

# Largest batch and side of each, which are also what it is fastest at.
_LADDER = ((1, 512), (1, 1024), (8, 512), (8, 1024), (32, 512))
# What is compared with the graph on a processor: pixels of one image, and of all in a batch.
_MOST_PIXELS, _MOST_IN_A_BATCH = 1 << 22, 1 << 26


def profiles_for(contract: GraphContract, wanted: Sequence[Profile] = ()) -> tuple[Profile, ...]:
    """Decide on the profiles of an engine.

    Args:
        contract: of the graph.
        wanted: the user's own; none takes the ladder.

    Raises:
        UsageError: a wanted profile does not fit the graph.
    """
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


def choose(profiles: Sequence[Profile], shape: Shape) -> int:
    """Find the smallest profile that takes (batch, height, width), by its index.

    Raises:
        EngineError: none takes it; the message lists them.
    """
    able = [index for index, profile in enumerate(profiles) if profile.takes(shape)]
    if not able:
        batch, height, width = shape
        known = "\n  ".join(profile.describe() for profile in profiles)
        raise EngineError(
            f"found batch {batch} of {height}x{width}; "
            f"this engine takes (batch x height x width):\n  {known}"
        )
    # Of two that end alike, the narrower one was made for fewer shapes.
    return min(able, key=lambda i: (_volume(profiles[i].max), -_volume(profiles[i].min), i))


def judged_batches(profiles: Sequence[Profile], contract: GraphContract) -> list[Batch]:
    """On what an engine is compared with its graph: every kind of hole, and every profile.

    The usual cases are batches of three, of small images. Where some profile takes no such, they
    have the least shape of the first profile instead. Then each profile has a batch of its best
    shape and one of its largest, as far as the reference can compute them and no other profile
    takes them; or else one of its least.
    """
    batches: list[Batch] = [*parity_batches(contract)]
    shapes = {(contract.batch or len(batch), *batch[0].hole_mask.shape) for batch in batches}
    if not all(any(profile.takes((n, h, w)) for profile in profiles) for n, h, w in shapes):
        shapes = {profiles[0].min}
        count, height, width = profiles[0].min
        cases = parity_inputs(height, width)
        groups = (cases[start : start + count] for start in range(0, len(cases), count))
        batches = [_in_turn(group, count) for group in groups]
    # The same cases in all shapes of one size, so that the reference computes them once.
    few: dict[tuple[int, int], Batch] = {}
    wanted = [shape for index in range(len(profiles)) for shape in _affordable(profiles, index)]
    for shape in dict.fromkeys(wanted):
        if shape not in shapes:
            size = shape[1:]
            few[size] = few.get(size) or few_inputs(*size)
            batches.append(_in_turn(few[size], shape[0]))
    return batches


def _in_turn(cases: Batch, count: int) -> Batch:
    return [cases[index % len(cases)] for index in range(count)]


def _affordable(profiles: Sequence[Profile], index: int) -> list[Shape]:
    """A profile's best and largest shape, but for what the reference cannot compute; or its least.

    Only shapes for which it is the one that is chosen: none, if others take all of them.
    """
    profile = profiles[index]
    able = [
        shape
        for shape in (profile.opt, profile.max)
        if shape[1] * shape[2] <= _MOST_PIXELS and _volume(shape) <= _MOST_IN_A_BATCH
    ]
    best, least = (
        [shape for shape in shapes if choose(profiles, shape) == index]
        for shapes in (able, [profile.min])
    )
    return best or least


def tensor_shape(spec: TensorSpec, shape: Shape) -> tuple[int, ...]:
    """The shape of one tensor of a graph at (batch, height, width)."""
    sizes = dict(zip(("batch", "height", "width"), shape, strict=True))
    return tuple(sizes[n] if isinstance(n, str) else n for n in spec.shape)


def show(shape: Shape) -> str:
    """(1, 256, 512) -> '1x256x512'."""
    return "x".join(map(str, shape))


def _volume(shape: Shape) -> int:
    batch, height, width = shape
    return batch * height * width
