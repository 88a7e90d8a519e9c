"""Which batches and sizes a served engine takes, and which of them are run before it serves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.shapes import Profile, Shape
from pconv_deploy.errors import EngineError, UsageError

ANY = -1  # Triton's word for a dimension that is free
# Triton's own default for ONNX models. Only memory limits them; more gains little on a CPU.
_USUAL_BATCH = 4
_USUAL_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class ServedShapes:
    """What Triton is told of batches, heights and widths.

    profiles         those of a TensorRT engine that are served, by their numbers in the plan
    max_batch_size   images that Triton may join; 0: none, for the batch is part of the shape
    batch            part of the shape, where there is one
    height, width    ANY where they are free
    rehearsed        (batch, height, width) that warm-up requests have
    captured         those that CUDA graphs are captured for
    """

    profiles: Mapping[int, Profile]
    max_batch_size: int
    batch: int | None
    height: int
    width: int
    rehearsed: tuple[Shape, ...]
    captured: tuple[Shape, ...]


def served_shapes(
    contract: GraphContract, profiles: Mapping[int, Profile], max_batch_size: int | None
) -> ServedShapes:
    """Work out what an engine of these profiles takes; none: an engine that knows no profiles.

    Raises:
        EngineError: there are sizes at which it does not take a single image.
        UsageError: it does not take so large batches at all of its sizes.
    """
    most = _max_batch_size(contract, profiles, max_batch_size)
    height, width = contract.size or (_same(profiles, 1), _same(profiles, 2))
    rehearsed = [shape for p in profiles.values() for shape in (p.opt, p.max)]
    captured = [(n, *p.opt[1:]) for p in profiles.values() for n in (p.min[0], p.opt[0], p.max[0])]
    if not profiles:
        side = _USUAL_SIDE + -_USUAL_SIDE % contract.size_multiple
        usual = contract.size or (side, side)
        rehearsed = [(n, *usual) for n in (contract.batch or 1, contract.batch or most)]
    return ServedShapes(
        profiles=profiles,
        max_batch_size=most,
        batch=contract.batch,
        height=height,
        width=width,
        rehearsed=_within(rehearsed, most),
        captured=_within(captured, most),
    )


def joinable(profiles: Iterable[Profile]) -> int:
    """The largest batch such that it and all smaller ones are taken at every size.

    Triton joins any requests of one size up to one limit, which is the same for all sizes.
    """
    there = tuple(profiles)
    # Which profiles take a size changes at their bounds alone: looking beside each is enough.
    heights = {h for p in there for h in (p.min[1] - 1, p.min[1], p.max[1], p.max[1] + 1)}
    widths = {w for p in there for w in (p.min[2] - 1, p.min[2], p.max[2], p.max[2] + 1)}
    takers = (
        [p for p in there if p.takes((p.min[0], height, width))]
        for height in heights
        for width in widths
    )
    return min(_unbroken(some) for some in takers if some)


def listed(profiles: Mapping[int, Profile]) -> str:
    """One line for people: their numbers and shapes."""
    return "; ".join(f"{n}: {p.describe()}" for n, p in profiles.items()) or "no profiles"


def _max_batch_size(
    contract: GraphContract, profiles: Mapping[int, Profile], wanted: int | None
) -> int:
    if contract.batch:
        if wanted is not None:
            raise UsageError(
                f"this engine takes batches of {contract.batch} and no others, so Triton cannot "
                "join requests: leave out --max-batch-size, or export without --batch"
            )
        return 0
    if not profiles:
        return wanted or _USUAL_BATCH
    most = joinable(profiles.values())
    if most == 0:
        raise EngineError(
            "Triton sends batches of any size up to its limit, but at some size this engine does "
            f"not take a single image: it has {listed(profiles)}. Build it with profiles whose "
            "smallest batch is 1"
        )
    if wanted is not None and wanted > most:
        raise UsageError(
            f"found --max-batch-size {wanted}; at some size this engine takes {most} at most: "
            f"it has {listed(profiles)}. Serve those of larger batches alone, with --profiles"
        )
    return wanted or most


def _unbroken(profiles: Iterable[Profile]) -> int:
    """How far batches go from 1 on without a gap; 0: a single image is not taken."""
    reached = 0
    for profile in sorted(profiles, key=lambda p: p.min[0]):
        if profile.min[0] <= reached + 1:
            reached = max(reached, profile.max[0])
    return reached


def _same(profiles: Mapping[int, Profile], axis: int) -> int:
    """The one height or width there is, or ANY."""
    sides = {side for p in profiles.values() for side in (p.min[axis], p.max[axis])}
    return sides.pop() if len(sides) == 1 else ANY


def _within(shapes: Iterable[Shape], most: int) -> tuple[Shape, ...]:
    """Each once, of batches that Triton sends."""
    return tuple(dict.fromkeys((min(n, most or n), h, w) for n, h, w in shapes))
