"""List the exact rewrites in their order, by level.

-O0  the graph as it was traced: every mask of every channel convolved
-O1  masks: one channel, one multiplication, batch norms folded
-O2  fewer multiply-adds: no concatenation, nothing enlarged before it is convolved

The equal forms that a runtime prefers are not here: `build-engine` chooses among them.
"""

from collections.abc import Iterable
from enum import IntEnum

from pconv_deploy.errors import UsageError
from pconv_deploy.export.rewrites.collapse_masks import collapse_masks
from pconv_deploy.export.rewrites.fold_batch_norm import fold_batch_norm
from pconv_deploy.export.rewrites.fold_constants import fold_constants
from pconv_deploy.export.rewrites.mask_once import mask_once
from pconv_deploy.export.rewrites.split_concat import split_concat
from pconv_deploy.export.rewrites.upsample_phases import upsample_phases
from pconv_deploy.graphs.passes import GraphPass


class Level(IntEnum):
    """How far a graph is rewritten; each level includes those below."""

    LITERAL = 0
    MASKS = 1
    WORK = 2


LEVELS = {
    Level.MASKS: (
        GraphPass("collapse-masks", collapse_masks, removes=("PartialConv2d",)),
        GraphPass(
            "fold-batch-norm",
            fold_batch_norm,
            after=("collapse-masks",),
            removes=("BatchNormalization",),
        ),
        GraphPass("mask-once", mask_once, after=("collapse-masks", "fold-batch-norm")),
        GraphPass("fold-constants", fold_constants),
    ),
    Level.WORK: (
        GraphPass("split-concat", split_concat, after=("mask-once",)),
        GraphPass("upsample-phases", upsample_phases, after=("split-concat",)),
    ),
}
REWRITES = tuple(rewrite for rewrites in LEVELS.values() for rewrite in rewrites)


def select_rewrites(level: int, without: Iterable[str] = ()) -> tuple[GraphPass, ...]:
    """Return the rewrites up to a level, without those named.

    Raises:
        UsageError: an unknown rewrite.
    """
    names = [rewrite.name for rewrite in REWRITES]
    if unknown := sorted(set(without).difference(names)):
        raise UsageError(f"unknown rewrite {', '.join(unknown)}; available: {', '.join(names)}")
    included = {rewrite.name for rewrite in REWRITES if level_of(rewrite.name) <= level}
    return tuple(r for r in REWRITES if r.name in included.difference(without))


def already_excluded(level: int, without: Iterable[str]) -> tuple[str, ...]:
    """Return the rewrites named in `without` that the level does not include anyway."""
    return tuple(r.name for r in REWRITES if level_of(r.name) > level and r.name in set(without))


def level_of(name: str) -> Level:
    """Return the level that a rewrite belongs to."""
    return next(level for level, rewrites in LEVELS.items() if name in {r.name for r in rewrites})
