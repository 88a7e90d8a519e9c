"""Export a checkpoint to ONNX: trace, rewrite, compare with PyTorch, write the file."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import onnx
import onnx_ir as ir

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.contract import (
    MAX_SIDE,
    RAW_OUTPUT,
    GraphContract,
    GraphPrecision,
    deployment_specs,
    tensor_specs,
)
from pconv_deploy.errors import OutputError, ParityError, UsageError
from pconv_deploy.export.explain import ExplainedStep, explain_step
from pconv_deploy.export.rewrites.pipeline import Level, select_rewrites
from pconv_deploy.export.target import ExportTarget, target_of
from pconv_deploy.export.trace import trace_target, warn_if_untested_torch
from pconv_deploy.export.verify import Reference, reference_at_odd_multiples
from pconv_deploy.files import atomic_file, writing
from pconv_deploy.graphs.file import embed
from pconv_deploy.graphs.half_precision import convert_to_half
from pconv_deploy.graphs.passes import run_passes
from pconv_deploy.graphs.simplification import inline_functions
from pconv_deploy.parity import ParityReport

_AT_ODD_MULTIPLES = (
    "the exported graph differs only at other sizes than the traced one, so the module's code "
    "depends on its height or width; pass a larger --size-multiple, or --size HxW. It"
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    kind         "deployment": uint8 in, composited uint8 out; "tensor": float in and out
    batch        None leaves it free
    size         height and width, multiples of the network's 2**levels; None leaves them free
    precision    of features and weights
    level        how far it is rewritten, 0 to 2; see `rewrites.pipeline`
    without      names of rewrites to leave out
    weights_key  which weights, if the file holds several sets; see `foreign.tensor_tree`
    inline       write the graph without model-local functions, for tools that read none
    """

    kind: Literal["deployment", "tensor"] = "deployment"
    batch: int | None = None
    size: tuple[int, int] | None = None
    precision: GraphPrecision = "fp32"
    level: int = Level.WORK
    without: tuple[str, ...] = ()
    weights_key: str | None = None
    inline: bool = False


@dataclass(frozen=True)
class ExportResult:
    """The graph's contract and the evidence that it computes what its source computes.

    explained  what each rewrite did, the traced graph first; empty without `explain`
    notes      for the user
    """

    contract: GraphContract
    parity: ParityReport
    explained: tuple[ExplainedStep, ...] = ()
    notes: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint_file: Path | str,
    output: Path | str,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    explain: bool = False,
    progress: Callable[[str], None] = lambda _step: None,
) -> ExportResult:
    """Export, rewrite, check, compare with PyTorch, and only then write `output`.

    With `explain`, the graph is also compared and its work counted after each rewrite.

    Raises:
        CheckpointError: the checkpoint cannot be used, or not in this precision.
        UsageError: a size that is no multiple of what the network needs, an unknown rewrite, half
            precision without the rewrites it needs, or `output` exists and `overwrite` is false.
        ParityError: the graph differs from the checkpoint. It is kept beside `output` as
            `*.rejected.onnx` for inspection; `output` is not written.
        OutputError: `output` could not be written.
    """
    checkpoint_file, output = Path(checkpoint_file), Path(output)
    options = options or ExportOptions()
    if output.resolve() == checkpoint_file.resolve():
        raise UsageError(f"{output} is the checkpoint itself; choose another name for the graph")
    refuse_existing(output, overwrite)
    target = load_target(checkpoint_file, options, progress)
    model, result = verified_graph(target, output, options, explain=explain, progress=progress)
    write_graph(model, output, overwrite=overwrite)
    return result


def load_target(
    checkpoint_file: Path, options: ExportOptions, progress: Callable[[str], None]
) -> ExportTarget:
    """Check the options, then read the checkpoint; raises as `export_checkpoint`."""
    select_rewrites(options.level, options.without)
    progress("reading the checkpoint")
    return target_of(load_checkpoint(checkpoint_file, weights_key=options.weights_key))


def verified_graph(
    target: ExportTarget,
    output: Path,
    options: ExportOptions,
    *,
    explain: bool,
    progress: Callable[[str], None],
) -> tuple[onnx.ModelProto, ExportResult]:
    """Trace and rewrite a network, and compare the graph with PyTorch.

    `output` is not written: messages name it, and a rejected graph is kept beside it. Raises as
    `export_checkpoint`, and ModuleError.
    """
    warn_if_untested_torch()
    rewrites = select_rewrites(options.level, options.without)
    contract = _contract(target, options, [rewrite.name for rewrite in rewrites])
    progress("exporting")
    graph = trace_target(target, contract)
    reference = Reference(target, contract)
    explained = [explain_step(None, _finished(graph, contract), reference)] if explain else []
    for step in run_passes(graph, rewrites):
        if explain:
            progress(f"comparing after {step.name}")
            explained.append(explain_step(step, _finished(graph, contract), reference))
    if contract.precision != "fp32":
        convert_to_half(graph, contract.precision)
    if options.inline:
        inline_functions(graph)
    model = _finished(graph, contract)
    progress("comparing with PyTorch")
    parity = _require_parity(model, target, reference, output)
    return model, ExportResult(contract, parity, tuple(explained), target.notes)


def _require_parity(
    model: onnx.ModelProto, target: ExportTarget, reference: Reference, output: Path
) -> ParityReport:
    """Compare a graph with its reference, embed contract and report, raise ParityError."""
    contract = reference.contract
    parity = reference.compare(model, contract.precision)
    reference_at_odd = reference_at_odd_multiples(target, contract)
    odd = reference_at_odd and reference_at_odd.compare(model, contract.precision)
    if odd:
        parity = msgspec.structs.replace(parity, cases=parity.cases + odd.cases)
    embed(model, contract, parity)
    try:
        _require_finite(parity, contract.precision, reference, reference_at_odd)
        if odd and len(odd.failures()) == len(parity.failures()):
            odd.require_success(_AT_ODD_MULTIPLES)
        parity.require_success("the exported graph")
    except ParityError as error:
        kept = _keep_rejected(model, output)
        raise ParityError(f"{error}\n  {output} was not written; {kept}") from None
    return parity


def _keep_rejected(model: onnx.ModelProto, output: Path) -> str:
    """Write a rejected graph beside `output`; return where it is, or why it was not written."""
    rejected = output.with_suffix(".rejected.onnx")
    try:
        write_graph(model, rejected, overwrite=True)
    except OutputError as unwritten:
        return f"nor was the graph kept: {unwritten}"
    return f"the graph is in {rejected}"


def _require_finite(
    parity: ParityReport, precision: GraphPrecision, *references: Reference | None
) -> None:
    """Raise ParityError for NaN or infinity, before the differences that follow from them."""
    bad = [case.name for case in parity.cases if not case.finite]
    if not bad:
        return
    advice = {
        "fp32": "The network itself returns finite numbers in PyTorch, so this is a fault of the "
        "export, not of your network: please report it. Until then, try -O 0",
        "fp16": "Features may overflow, beyond 65504: export --precision bf16 or fp32",
        "bf16": "Export --precision fp32",
    }[precision]
    if any(reference and reference.overflows() for reference in references):
        advice = "The network itself does so in PyTorch, too: check its weights"
    raise ParityError(
        f"the exported graph in {precision} returns NaN or infinity in {len(bad)} of "
        f"{len(parity.cases)} cases, such as: {bad[0]}. {advice}"
    )


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Raise UsageError if a file exists and may not be replaced, OutputError if unwritable."""
    with writing(output):
        there = output.exists()
        folder = next(above for above in output.absolute().parents if above.exists())
    if there and not overwrite:
        raise UsageError(f"{output} already exists; pass --overwrite to replace it")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {output}: {folder} is no writable folder")


def _contract(
    target: ExportTarget, options: ExportOptions, rewrites: Iterable[str]
) -> GraphContract:
    multiple = target.size_multiple
    if options.size and any(side % multiple or not 0 < side <= MAX_SIDE for side in options.size):
        height, width = options.size
        raise UsageError(
            f"found --size {height}x{width}; this network needs "
            f"multiples of {multiple} up to {MAX_SIDE}, such as {multiple}x{2 * multiple}. "
            "(Images of any size are filled all the same: they are padded with hole.)"
        )
    specs = tensor_specs if options.kind == "tensor" else deployment_specs
    inputs, outputs = specs(options.batch, options.size)
    return GraphContract(
        kind=options.kind,
        inputs=inputs,
        outputs=outputs,
        normalisation=target.normalisation,
        size_multiple=multiple,
        batch=options.batch,
        size=options.size,
        precision=options.precision,
        rewrites=tuple(rewrites),
        source=target.source,
    )


def _finished(graph: ir.Model, contract: GraphContract) -> onnx.ModelProto:
    """Serialise a graph with the contract's names of free dimensions; infer shapes and check."""
    model: onnx.ModelProto = ir.serde.serialize_model(graph)
    outputs = [value for value in model.graph.output if value.name != RAW_OUTPUT]
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(outputs)
    specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        sizes = specs[value.name].shape
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size
    model.producer_name = "pconv-deploy"
    model.graph.name = "pconv_deploy"
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )


def write_graph(model: onnx.ModelProto, path: Path, *, overwrite: bool) -> None:
    """Write a graph, whole or not at all; raises as `refuse_existing`."""
    refuse_existing(path, overwrite)  # it may have appeared meanwhile
    with atomic_file(path) as partial:
        partial.write_bytes(model.SerializeToString())
