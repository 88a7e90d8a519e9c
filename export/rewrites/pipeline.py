"""The rewrites in their order, by level, and what each did.

-O0  the graph as it was traced: every mask of every channel convolved
-O1  masks: one channel, one multiplication, batch norms folded
-O2  fewer multiply-adds: no concatenation, nothing enlarged before it is convolved
-O3  arranged for ONNX Runtime on a CPU; `build-engine` arranges for every backend by itself
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass, ShapeInferencePass

from pconv_deploy.errors import UsageError
from pconv_deploy.export.rewrites.collapse_masks import collapse_masks
from pconv_deploy.export.rewrites.fold_batch_norm import fold_batch_norm
from pconv_deploy.export.rewrites.fold_constants import fold_constants
from pconv_deploy.export.rewrites.fuse_epilogue import fuse_epilogue
from pconv_deploy.export.rewrites.interleave_phases import interleave_phases
from pconv_deploy.export.rewrites.mask_once import mask_once
from pconv_deploy.export.rewrites.narrow_input import narrow_input
from pconv_deploy.export.rewrites.narrow_output import narrow_output
from pconv_deploy.export.rewrites.site import Apply, Site
from pconv_deploy.export.rewrites.split_concat import split_concat
from pconv_deploy.export.rewrites.upsample_phases import upsample_phases


class Level(IntEnum):
    """How far a graph is rewritten; every level includes those below it."""

    LITERAL = 0
    MASKS = 1
    WORK = 2
    LAYOUT = 3


@dataclass(frozen=True)
class Rewrite:
    """A rewrite under the name by which it is switched off, and the level that it belongs to."""

    name: str
    level: Level
    apply: Apply


REWRITES = (
    Rewrite("collapse-masks", Level.MASKS, collapse_masks),
    Rewrite("fold-batch-norm", Level.MASKS, fold_batch_norm),
    Rewrite("mask-once", Level.MASKS, mask_once),
    Rewrite("fold-constants", Level.MASKS, fold_constants),
    Rewrite("split-concat", Level.WORK, split_concat),
    Rewrite("upsample-phases", Level.WORK, upsample_phases),
    Rewrite("narrow-input", Level.LAYOUT, narrow_input),
    Rewrite("narrow-output", Level.LAYOUT, narrow_output),
    Rewrite("interleave-phases", Level.LAYOUT, interleave_phases),
    Rewrite("fuse-epilogue", Level.LAYOUT, fuse_epilogue),
)


@dataclass(frozen=True)
class Step:
    """A rewrite that was applied, and where it fired and refused."""

    rewrite: str
    sites: tuple[Site, ...]

    @property
    def fired(self) -> int:
        return sum(site.refused is None for site in self.sites)

    def refusals(self) -> dict[str, list[str]]:
        """The places of each reason."""
        by_reason: dict[str, list[str]] = {}
        for site in self.sites:
            if site.refused is not None:
                by_reason.setdefault(site.refused, []).append(site.place)
        return by_reason


def chosen(level: int, without: Iterable[str] = ()) -> tuple[Rewrite, ...]:
    """The rewrites of a level and of those below it, less some by name.

    Raises:
        UsageError: there is no rewrite of such a name.
    """
    names = {rewrite.name for rewrite in REWRITES}
    if unknown := sorted(set(without) - names):
        raise UsageError(
            f"there is no rewrite {', '.join(unknown)}; there are: "
            f"{', '.join(rewrite.name for rewrite in REWRITES)}"
        )
    return tuple(r for r in REWRITES if r.level <= level and r.name not in without)


def not_there(level: int, without: Iterable[str]) -> tuple[str, ...]:
    """Which of the rewrites to leave out belong to a higher level, and so do nothing anyway."""
    return tuple(r.name for r in REWRITES if r.level > level and r.name in set(without))


def rewritten(
    model: onnx.ModelProto, rewrites: Iterable[Rewrite]
) -> Iterator[tuple[Step, onnx.ModelProto]]:
    """Apply rewrites in turn; give each step with the model behind it, the last one the result."""
    graph = ir.serde.deserialize_model(model)
    ShapeInferencePass()(graph)
    for rewrite in rewrites:
        step = Step(rewrite.name, tuple(rewrite.apply(graph)))
        RemoveUnusedNodesPass()(graph)
        NameFixPass()(graph)  # new values may be called as weights or inputs are
        ShapeInferencePass()(graph)  # the next rewrite wants to know channels
        yield step, ir.serde.serialize_model(graph)
