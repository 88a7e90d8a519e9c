"""Run passes over a graph one after another, and check the graph after each.

A pass changes the graph where its formula holds and returns every place it considered. The runner
infers shapes, removes unused nodes and checks what the pass promises, so that a fault is reported
with the name of the pass that made it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass, ShapeInferencePass


@dataclass(frozen=True)
class Site:
    """A place that a pass considered. refused  why it was left alone; None: it was rewritten."""

    place: str
    refused: str | None = None


@dataclass(frozen=True)
class GraphPass:
    """A pass over a graph.

    name     by which it is switched off, recorded and reported
    apply    changes the graph in place and returns the places it considered
    after    passes that may not run later than this one
    removes  operators of which no node is left, if no place was refused
    """

    name: str
    apply: Callable[[ir.Model], Sequence[Site]]
    after: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A pass that ran, and the places it considered."""

    name: str
    sites: tuple[Site, ...]

    @property
    def fired(self) -> int:
        """Return the number of places that were rewritten."""
        return sum(site.refused is None for site in self.sites)

    def refusals(self) -> dict[str, list[str]]:
        """Return the refused places by reason."""
        by_reason: dict[str, list[str]] = {}
        for site in self.sites:
            if site.refused is not None:
                by_reason.setdefault(site.refused, []).append(site.place)
        return by_reason


class PassError(RuntimeError):
    """A pass left the graph invalid: a fault of ours, not of the user's."""


def run_passes(graph: ir.Model, passes: Sequence[GraphPass]) -> Iterator[Step]:
    """Apply passes in turn, in place; yield each step once it is done.

    Raises:
        PassError: a pass left the graph invalid or its promise unkept, or the order is wrong.
    """
    for number, one in enumerate(passes):
        if late := {other.name for other in passes[number + 1 :]}.intersection(one.after):
            raise PassError(f"pass {one.name} has to run after {', '.join(sorted(late))}")
    ShapeInferencePass()(graph)
    done: list[str] = []
    signature = _signature(graph)
    for one in passes:
        step = Step(one.name, tuple(one.apply(graph)))
        RemoveUnusedNodesPass()(graph)
        NameFixPass()(graph)  # new values may be called as weights or inputs are
        ShapeInferencePass()(graph)  # the next pass needs the numbers of channels
        complaint = _undefined_value(graph) or _unkept(one, step, graph)
        if _signature(graph) != signature:
            complaint = "it changed the graph's inputs or outputs"
        if complaint:
            earlier = ", ".join(done) or "none"
            raise PassError(f"pass {one.name}: {complaint}; passes before it: {earlier}")
        done.append(one.name)
        yield step


def _signature(graph: ir.Model) -> list[str | None]:
    return [value.name for value in (*graph.graph.inputs, *graph.graph.outputs)]


def _undefined_value(graph: ir.Model) -> str | None:
    """Find a node that reads what no input, weight or earlier node gives."""
    defined = {*graph.graph.inputs, *graph.graph.initializers.values()}
    for node in graph.graph:
        for value in node.inputs:
            if value is not None and value not in defined:
                return f"node {node.name} reads {value.name}, which is not defined before it"
        defined.update(node.outputs)
    return None


def _unkept(one: GraphPass, step: Step, graph: ir.Model) -> str | None:
    if step.refusals():
        return None
    left = {node.op_type for node in graph.graph}.intersection(one.removes)
    return f"it left {', '.join(sorted(left))}" if left else None
