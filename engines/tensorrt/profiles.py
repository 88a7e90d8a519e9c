"""Optimization profiles: the shapes an engine takes, in a few narrow ranges.

A kernel that is fast at one 512x512 image is not the one for eight of 1024x1024; each profile has
its own, and a request goes to the smallest that takes it.
"""

from collections.abc import Sequence

import msgspec

from pconv_deploy.contract import GraphContract, TensorSpec, deployment_specs, tensor_specs
from pconv_deploy.engines.tensorrt.options import Profile, Shape
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import parity_batches

# Largest batch and side of each, which are also what it is fastest at.
_LADDER = ((1, 512), (1, 1024), (8, 512), (8, 1024), (32, 512))


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
    return min(able, key=lambda index: (_volume(profiles[index].max), index))


def judged_within(profiles: Sequence[Profile], contract: GraphContract) -> GraphContract:
    """The contract by which an engine is compared with its graph.

    The usual cases are batches of three, of small images. Where no profile takes those, they have
    the least shape of the first profile instead.
    """
    usual = {
        (contract.batch or len(batch), *batch[0].hole_mask.shape)
        for batch in parity_batches(contract)
    }
    if all(any(profile.takes((n, h, w)) for profile in profiles) for n, h, w in usual):
        return contract
    batch, height, width = profiles[0].min
    specs = deployment_specs if contract.kind == "deployment" else tensor_specs
    inputs, outputs = specs(batch, (height, width))
    return msgspec.structs.replace(
        contract, batch=batch, size=(height, width), inputs=inputs, outputs=outputs
    )


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
