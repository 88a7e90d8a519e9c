"""A built engine against the graph it came from, before anyone relies on it.

The reference is the graph itself, run by ONNX Runtime node by node with every optimisation
off: slow, and none of what a runtime does to a graph to make it fast.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pconv_deploy.contract import RAW_OUTPUT
from pconv_deploy.engines.base import Backend, Built, Layer
from pconv_deploy.engines.golden import Allowance, GoldenCase, allowance, make_case
from pconv_deploy.engines.int8.graph import quantised_convolutions
from pconv_deploy.engines.sessions import EngineFiles, RunOptions, Session, files_just_built
from pconv_deploy.engines.shapes import judged_batches
from pconv_deploy.errors import ParityError, UsageError
from pconv_deploy.files import scratch_folder
from pconv_deploy.graphs.file import ExportedGraph, with_raw_output
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import (
    TOLERANCES,
    Arrays,
    Judged,
    ParityReport,
    Precision,
    compare_runs,
    own_error,
)

if TYPE_CHECKING:
    import onnx

# Convolutions that may be of another precision than their engine, by the engine's precision:
# what is kept finer on purpose, or is too small to gain anything.
_MAY_RUN_IN: Mapping[Precision, frozenset[Precision]] = {
    "fp32": frozenset({"fp32"}),
    "fp16": frozenset({"fp32", "fp16"}),
    "bf16": frozenset({"fp32", "bf16"}),
    "int8": frozenset({"fp32", "bf16", "int8"}),
}

_LEAST_SHARE = 0.9  # of the multiply-adds that are to run in a precision


@dataclass(frozen=True)
class Acceptance:
    """What an engine computes, beside the graph that it came from.

    layers    its convolutions, with the precision that the runtime says it computes them in
    golden    a fill to be made again elsewhere; None of an engine that failed, or that takes no
              small image
    allowed   how far that fill may differ elsewhere; None where there is none
    """

    parity: ParityReport
    layers: Sequence[Layer]
    golden: GoldenCase | None
    allowed: Allowance | None


def accept(
    backend: Backend,
    files: EngineFiles,
    exported: ExportedGraph,
    model: "onnx.ModelProto | None",
    precision: Precision,
    built: Built,
) -> Acceptance:
    """Run an engine beside the graph as it was exported.

    model: what it was built from, of which a witness is built that shows the network's own output.
        None, or a backend whose builds are not repeatable, compares only what the engine itself
        shows: another build would prove nothing of this one.
    built: what the backend said of the engine.
    """
    contract, installed = exported.contract, backend.runtime()
    judged = Judged(built.arithmetic or precision, judged_batches(built.profiles, contract))
    with contextlib.ExitStack() as stack:
        session = backend.open(files, precision, RunOptions())
        stack.callback(session.close)
        witness = None
        if model and backend.traits.repeatable and contract.kind == "deployment":
            shown = stack.enter_context(scratch_folder())
            content = with_raw_output(model).SerializeToString()
            backend.build(content, contract, precision, shown)
            witness = backend.open(files_just_built(shown), precision, RunOptions())
            stack.callback(witness.close)
        name = f"{installed.package} {installed.version}, {judged.arithmetic}"
        own = _own_rounding(exported, precision)
        parity = compare_with_graph(session, witness, exported, name, judged, own)
        golden = None if parity.failures() else make_case(session, contract, built)
    allowed = allowance(judged.arithmetic, parity) if golden else None
    return Acceptance(parity, backend.layers(files, contract, precision), golden, allowed)


def why_rejected(
    backend: Backend,
    folder: Path,
    exported: ExportedGraph,
    model: "onnx.ModelProto",
    precision: Precision,
    built: Built,
) -> str | None:
    """Say why the engine in `folder` would not be kept, or None if it would; see `accept`."""
    files = files_just_built(folder)
    try:
        accepted = accept(backend, files, exported, model, precision, built)
        accepted.parity.require_success("it")
        require_precision(accepted.layers, precision, "it", model)
    except ParityError as error:
        return str(error)
    return None


def _own_rounding(exported: ExportedGraph, precision: Precision) -> float | None:
    """How far rounding alone carries in this network; in which of the cases, is chance.

    The export has measured it in the graph's precision. For an engine of half precision of a graph
    in fp32 it is measured on the same graph with the types of half precision.
    """
    contract = exported.contract
    found = exported.parity.reference_error if exported.parity else None
    if precision not in ("fp16", "bf16") or contract.precision != "fp32":
        return found
    from pconv_deploy.graphs.half_precision import in_half_precision

    try:
        rounded = in_half_precision(exported.model, precision)
    except UsageError:  # exported at -O0: such graphs have no half precision, engines do
        return found
    typed = msgspec.structs.replace(contract, precision=precision)
    return own_error(
        graph_run(exported.model, contract, optimised=False),
        graph_run(rounded, typed, optimised=False),
        contract,
        outside=TOLERANCES[precision].outside,
    )


def compare_with_graph(
    session: Session,
    witness: Session | None,
    exported: ExportedGraph,
    engine: str,
    judged: Judged,
    own_rounding: float | None,
) -> ParityReport:
    """Fill the same cases on both sides.

    Args:
        session: the engine.
        witness: built like it, from the same graph with the network's own output shown; None
            compares what the engine itself shows.
        exported: the graph as it was exported.
        engine: its name in the report.
        judged: on what, in shapes that the engine takes, and how strictly.
        own_rounding: how far rounding alone carries in this network.

    Raises:
        GraphError: ONNX Runtime cannot run the graph.
        MissingRuntimeError: ONNX Runtime, the reference, is not installed.
        ParityError: the engine's outputs are not those of the contract.
    """

    def run_engine(inputs: Arrays) -> Arrays:
        outputs = session.run(inputs)
        if witness is None or not isinstance(outputs, Mapping):
            return outputs
        return {RAW_OUTPUT: witness.run(inputs)[RAW_OUTPUT], **outputs}

    return compare_runs(
        graph_run(exported.model, exported.contract, optimised=False),
        run_engine,
        exported.contract,
        ("the exported graph, unoptimised", engine),
        reference_in_precision=own_rounding,
        judged=judged,
    )


def require_precision(
    layers: Sequence[Layer],
    wanted: Precision,
    engine: str,
    model: "onnx.ModelProto | None" = None,
) -> None:
    """Compare what the runtime says it computes in with what was asked for.

    Args:
        layers: its convolutions.
        wanted: of the engine.
        engine: its name, for messages.
        model: what it was built from. Of an int8 engine it says which convolutions are to compute
            in eight bits: the others were kept finer for what they are worth.

    Raises:
        ParityError: no convolution runs in the wanted precision, one in a coarser one, or less
            than 90 % of the work that is to run in it.
    """
    executed = count_precisions(layers)
    if not executed.get(wanted) or not executed.keys() <= _MAY_RUN_IN[wanted]:
        found = ", ".join(f"{count} in {precision}" for precision, count in executed.items())
        raise ParityError(
            f"{engine} was to compute in {wanted}; found convolutions: {found or 'none'}"
        )
    if wanted == "int8" and model is not None:
        asked = quantised_convolutions(model)
        layers = [layer for layer in layers if not layer.name or layer.name in asked]
    others = [layer for layer in layers if layer.precision != wanted]
    work = sum(layer.work for layer in layers)
    done = work - sum(layer.work for layer in others)
    if done < _LEAST_SHARE * work:
        names = ", ".join(f"{layer.name} in {layer.precision}" for layer in others)
        raise ParityError(
            f"{engine} was to compute in {wanted}; {done / work:.0%} of the work does, needed "
            f"{_LEAST_SHARE:.0%}. The runtime computes {names}; build for another precision or "
            "backend"
        )


def count_precisions(layers: Sequence[Layer]) -> Mapping[Precision, int]:
    """Count convolutions by what they compute in, as the manifest has them."""
    return Counter(layer.precision for layer in layers)


def describe_mixed(executed: Mapping[Precision, int], wanted: Precision) -> str | None:
    """Say how many convolutions compute in another precision than the engine's; None: none do."""
    if executed.keys() <= {wanted}:
        return None
    total = sum(executed.values())
    others = ", ".join(f"{count} in {name}" for name, count in executed.items() if name != wanted)
    return f"{executed.get(wanted, 0)} of {total} convolutions compute in {wanted}, {others}"
