"""`pconv-deploy export`: a checkpoint becomes an ONNX file that is proven before it is named."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import onnx
import torch
from torch.export import Dim

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
from pconv_deploy.export.graphs import DeploymentGraph, TensorGraph
from pconv_deploy.export.rewrites.pipeline import Level, chosen, rewritten
from pconv_deploy.export.subject import Subject, subject_of
from pconv_deploy.export.to_onnx import onnx_from_module
from pconv_deploy.export.torch_release import warn_if_untried
from pconv_deploy.export.verify import Reference, reference_at_odd_multiples
from pconv_deploy.files import atomic_file, writing
from pconv_deploy.graphs.file import embed
from pconv_deploy.graphs.half_precision import in_half_precision
from pconv_deploy.graphs.inline import without_functions
from pconv_deploy.parity import ParityReport

_LEAST_UNIT = 32  # pixels; a network that takes any size may still halve it

_AT_ODD_MULTIPLES = (
    "the exported graph differs only at other sizes than the traced one, as of code that decides "
    "by its height or width; pass a larger --size-multiple, or --size HxW. It"
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and as what kind of graph.

    kind         "deployment": uint8 in, composited uint8 out; "tensor": float in and out
    batch        None leaves it free
    size         height and width, multiples of the network's 2**levels; None leaves them free
    precision    of features and weights
    level        how far it is rewritten, 0 to 3; see `rewrites.pipeline`
    without      names of rewrites that are left out
    weights_key  which weights of the file, where it holds several sets; see `foreign.places`
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
    """The file's contract, and the evidence that it computes what its checkpoint computes.

    explained  what each rewrite did, the traced graph first; empty if that was not asked for
    notes      what may surprise
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
        UsageError: the size is not a multiple of what the network can halve, there is no such
            rewrite, half precision without the rewrites it needs, or `output` exists and
            `overwrite` is false.
        ParityError: the graph differs from the checkpoint. It is kept beside `output` as
            `*.rejected.onnx` for inspection; `output` is not written.
        OutputError: `output` could not be written.
    """
    checkpoint_file, output, options = (
        Path(checkpoint_file),
        Path(output),
        options or ExportOptions(),
    )
    if output.resolve() == checkpoint_file.resolve():
        raise UsageError(f"{output} is the checkpoint itself; choose another name for the graph")
    refuse_existing(output, overwrite)
    subject = checked_subject(checkpoint_file, options, progress)
    return export_subject(
        subject, output, options, overwrite=overwrite, explain=explain, progress=progress
    )


def checked_subject(
    checkpoint_file: Path, options: ExportOptions, progress: Callable[[str], None]
) -> Subject:
    """Read what is to be exported, after its options; raises as `export_checkpoint`."""
    chosen(options.level, options.without)  # before anything is read
    progress("reading the checkpoint")
    return subject_of(load_checkpoint(checkpoint_file, weights_key=options.weights_key))


def export_subject(
    subject: Subject,
    output: Path,
    options: ExportOptions,
    *,
    overwrite: bool,
    explain: bool,
    progress: Callable[[str], None],
) -> ExportResult:
    """Export any network as `export_checkpoint` does; raises likewise, and ModuleError."""
    model, result = proven_graph(subject, output, options, explain=explain, progress=progress)
    refuse_existing(output, overwrite)  # it may have appeared meanwhile
    write_graph(model, output)
    return result


def proven_graph(
    subject: Subject,
    output: Path,
    options: ExportOptions,
    *,
    explain: bool,
    progress: Callable[[str], None],
) -> tuple[onnx.ModelProto, ExportResult]:
    """Export a network and compare it with PyTorch, without writing the graph.

    `output` is what is to be made of it: messages name it, and a rejected graph is kept beside it.
    Raises as `export_checkpoint`.
    """
    warn_if_untried()
    rewrites = chosen(options.level, options.without)
    contract = _contract(subject, options)
    progress("exporting")
    traced = model = _trace(subject, contract)
    reference = Reference(subject, contract)
    explained = [explain_step(None, _finish(traced, contract), reference)] if explain else []
    for step, model in rewritten(traced, rewrites):
        if explain:
            progress(f"comparing after {step.name}")
            explained.append(explain_step(step, _finish(model, contract), reference))
    if contract.precision != "fp32":
        model = in_half_precision(model, contract.precision)
    if options.inline:
        model = without_functions(model)
    model = _finish(model, contract)
    progress("comparing with PyTorch")
    parity = reference.compare(model, contract.precision)
    reference_at_odd = reference_at_odd_multiples(subject, contract)
    odd = reference_at_odd and reference_at_odd.compare(model, contract.precision)
    if odd:
        parity = msgspec.structs.replace(parity, cases=parity.cases + odd.cases)
    embed(model, contract, parity)
    try:
        _require_numbers(parity, contract.precision, reference, reference_at_odd)
        if odd and len(odd.failures()) == len(parity.failures()):
            odd.require_success(_AT_ODD_MULTIPLES)
        parity.require_success("the exported graph")
    except ParityError as error:
        kept = _keep_rejected(model, output)
        raise ParityError(f"{error}\n  {output} was not written; {kept}") from None
    return model, ExportResult(contract, parity, tuple(explained), subject.notes)


def _keep_rejected(model: onnx.ModelProto, output: Path) -> str:
    """Write a rejected graph beside `output`; say where it is, or why it could not be written."""
    rejected = output.with_suffix(".rejected.onnx")
    try:
        write_graph(model, rejected)
    except OutputError as unwritten:
        return f"nor was the graph kept: {unwritten}"
    return f"the graph is in {rejected}"


def _require_numbers(
    parity: ParityReport, precision: GraphPrecision, *references: Reference | None
) -> None:
    """Raise ParityError for NaN or infinity, before the differences that follow from them."""
    bad = [case.name for case in parity.cases if not case.finite]
    if not bad:
        return
    advice = {
        "fp32": "The network itself returns finite numbers in PyTorch, so this is a fault of the "
        "export, not of your network: please report it. Until then, -O 0 may do",
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
    """Raise UsageError if a file would be replaced unasked, OutputError if none can be written."""
    with writing(output):
        there = output.exists()
        folder = next(above for above in output.absolute().parents if above.exists())
    if there and not overwrite:
        raise UsageError(f"{output} already exists; pass --overwrite to replace it")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {output}: {folder} is no folder that can be written to")


def _contract(subject: Subject, options: ExportOptions) -> GraphContract:
    multiple = subject.size_multiple
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
        normalisation=subject.normalisation,
        size_multiple=multiple,
        batch=options.batch,
        size=options.size,
        precision=options.precision,
        rewrites=tuple(rewrite.name for rewrite in chosen(options.level, options.without)),
        source=subject.source,
    )


def _trace(subject: Subject, contract: GraphContract) -> onnx.ModelProto:
    network, multiple = subject.traced, contract.size_multiple
    # Dimensions that are 1 or equal somewhere would be taken as fixed.
    unit = multiple * math.ceil(_LEAST_UNIT / multiple)
    batch, (height, width) = contract.batch or 2, contract.size or (2 * unit, 3 * unit)
    dims: dict[str, object] = {}
    if contract.batch is None:
        dims["batch"] = Dim("batch")
    if contract.size is None:
        dims |= {"height": multiple * Dim("rows"), "width": multiple * Dim("columns")}
    dynamic = tuple(
        {axis: dims[str(n)] for axis, n in enumerate(spec.shape) if str(n) in dims}
        for spec in contract.inputs
    )
    if contract.kind == "tensor":
        module: torch.nn.Module = TensorGraph(network, contract.normalisation)
        example = (torch.zeros(batch, 3, height, width), torch.zeros(batch, 1, height, width))
        output_names = [spec.name for spec in contract.outputs]
    else:
        module = DeploymentGraph(network, contract.normalisation)
        example = (
            torch.zeros(batch, height, width, 3, dtype=torch.uint8),
            torch.zeros(batch, height, width, dtype=torch.uint8),
        )
        output_names = [*(spec.name for spec in contract.outputs), RAW_OUTPUT]
    module.training = False  # the network in it is in evaluation, whatever its own train() takes
    return onnx_from_module(
        module,
        example,
        input_names=[spec.name for spec in contract.inputs],
        output_names=output_names,
        dynamic_shapes=dynamic if dims else None,
    )


def _finish(graph: onnx.ModelProto, contract: GraphContract) -> onnx.ModelProto:
    """Name the free dimensions as the contract does, infer all other shapes, check the model."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    shown = [value for value in model.graph.output if value.name != RAW_OUTPUT]
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(shown)
    specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        for dim, size in zip(
            value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True
        ):
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


def write_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_bytes(model.SerializeToString())
