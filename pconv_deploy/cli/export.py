"""`pconv-deploy export`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pconv_deploy.cli.console import OUT, print_result, steps
from pconv_deploy.cli.normalisation import NormalisationName, parse_normalisation
from pconv_deploy.cli.options import (
    CHECKPOINT_HELP,
    Count,
    Names,
    OptionalSize,
    Output,
    Overwrite,
    WeightsKey,
    split_names,
)
from pconv_deploy.errors import needs
from pconv_deploy.export.modules.factory_name import parse_factory

if TYPE_CHECKING:
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, ExportResult
    from pconv_deploy.graphs.passes import Step


def export(
    output: Output,
    checkpoint: Annotated[Path | None, typer.Argument(help=CHECKPOINT_HELP)] = None,
    module: Annotated[str | None, typer.Option(metavar="PACKAGE.MODULE:FACTORY")] = None,
    weights: Path | None = None,
    weights_key: WeightsKey = None,
    normalisation: NormalisationName | None = None,
    mean: Annotated[str | None, typer.Option(metavar="R,G,B")] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B")] = None,
    size_multiple: Count = None,
    size: OptionalSize = None,
    batch: Count = None,
    tensor_level: bool = False,
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    level: Annotated[int, typer.Option("-O", min=0, max=2)] = 2,
    without: Names = None,
    inline: bool = False,
    explain: bool = False,
    overwrite: Overwrite = False,
) -> None:
    """Export a checkpoint to ONNX, verified against PyTorch.

    The project that wrote the checkpoint is recognised by its tensors. What that project computes
    differently is folded into the weights.

    The graph takes `image` (uint8 NHWC) and `hole_mask` (uint8 NHW, nonzero = fill) and returns
    `filled` (uint8 NHWC) with every known pixel untouched. Before the file gets its name it is
    compared with the literal network in double precision, inside and outside of holes of many
    shapes; if it differs, the exit code is 4 and it is kept as *.rejected.onnx.

    The network is rewritten on the way, by exact rewrites only: `--explain` lists them.

    With `--module` any network is exported that takes (image, mask), mask 1 = known. Layers that
    compute a partial convolution, such as NVIDIA's, are recognised by what they compute. The graph
    is compared with the unchanged module in double precision.

    Options:
        output: ONNX file to write.
        module: Instead of a checkpoint: callable that returns your torch.nn.Module. Importing it
            runs its code.
        weights: State dict for --module: *.safetensors or *.pth. Default: its initial weights.
        normalisation: Input range of --module: unit is 0..1, half is -1..1. Default: half.
        mean: Mean of its RGB input in 0..1, instead of --normalisation.
        std: Standard deviation of its RGB input, with --mean.
        size_multiple: Required multiple of height and width. Default: found by trial.
        size: Fixed height x width, such as 512 or 512x768. Default: any size.
        batch: Fixed batch size. Default: any.
        tensor_level: Export float NCHW tensors in and out, instead of composited uint8 images.
        precision: Precision of features and weights; masks stay in fp32.
        level: Rewrite level: 0 none, 1 masks and norms, 2 fewer multiply-adds as well.
        without: Skip a rewrite, by its name in --explain. Repeatable, or comma-separated.
        inline: Inline model-local functions, for tools that do not support them, such as OpenVINO
            and OpenCV.
        explain: Show for each rewrite where it applied, where it did not and why, the work and the
            error.
    """
    # Wrong options are reported before anything heavy is imported.
    of_a_module = (weights, normalisation, mean, std, size_multiple)
    if bool(checkpoint) == bool(module) or (checkpoint and of_a_module != (None,) * 5):
        raise typer.BadParameter(
            "needed either a checkpoint alone, or --module; --weights, --normalisation, "
            "--mean, --std and --size-multiple go with --module"
        )
    if weights_key is not None and module and not weights:
        raise typer.BadParameter("--weights-key goes with a checkpoint or with --weights")
    if module:
        parse_factory(module)
    normalised = parse_normalisation(normalisation, mean, std)
    with needs("pconv-deploy[export]"):
        from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
        from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module

    options = ExportOptions(
        kind="tensor" if tensor_level else "deployment",
        batch=batch,
        size=size,
        precision=precision,
        level=level,
        inline=inline,
        without=split_names(without),
        weights_key=weights_key,
    )
    with steps() as progress:
        common: Any = {"overwrite": overwrite, "explain": explain, "progress": progress}
        if module:
            request = ModuleRequest(
                factory=module,
                weights=weights,
                normalisation=normalised,
                size_multiple=size_multiple,
            )
            result = export_module(request, output, options, **common)
        else:
            assert checkpoint is not None
            result = export_checkpoint(checkpoint, output, options, **common)
    _print_export(output, result, options)


def _print_export(output: Path, result: "ExportResult", options: "ExportOptions") -> None:
    if result.explained:
        _print_explanation(result)
    print_result(output, result.contract.describe_shapes())
    source = result.contract.source
    of = f"checkpoint: {source.family.describe()}; " if source.network else ""
    OUT.print(escape(of + source.describe_network()))
    if source.weights_key:
        OUT.print(escape(f"weights: {source.describe_weights()}"))
    if source.module:
        facts = result.contract.normalisation
        OUT.print(f"normalisation: mean {facts.mean}, std {facts.std}", markup=False)
    OUT.print(f"verified: {result.parity.describe()}")
    for note in _notes(result, options):
        OUT.print(f"note: {note}", markup=False)


def _notes(result: "ExportResult", options: "ExportOptions") -> Iterator[str]:
    """Notes on what a user may not expect."""
    yield from result.notes
    from pconv_deploy.export.rewrites.pipeline import already_excluded

    if idle := already_excluded(options.level, options.without):
        yield (
            f"{', '.join(idle)} would run from a higher level than -O{options.level} on; leaving "
            "it out changed nothing"
        )
    module = result.contract.source.module
    if module and not module.partial_convolutions:
        yield (
            "no layer of this module was recognised as a partial convolution, so the rewrites of "
            "masks had nothing to do; what is recognised is in docs/own-networks.md"
        )
    lost = result.parity.worst_error or 0.0
    if lost > result.parity.tolerance and options.precision != "fp32":
        yield (
            f"in {options.precision} this network itself errs by up to {lost:.0%} of its range in "
            "the holes of drawn patterns; on your photos, `pconv-deploy verify` tells"
        )


def _print_explanation(result: "ExportResult") -> None:
    from pconv_deploy.export.explain import counted_size

    height, width = counted_size(result.contract)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rewrite")
    table.add_column("fired", justify="right")
    table.add_column("GMAC", justify="right")
    table.add_column("error", justify="right")
    for explained in result.explained:
        step = explained.step
        table.add_row(
            step.name if step else "as traced",
            str(step.fired) if step else "",
            f"{explained.multiply_adds / 1e9:.2f}",
            f"{explained.error:.1e}",
        )
    OUT.print(table)
    # Below the table, where names of layers need not be broken.
    for explained in result.explained:
        for refusal in refusals(explained.step) if explained.step else ():
            OUT.print(refusal, markup=False)
    OUT.print(
        f"GMAC: billions of multiply-adds of the convolutions alone, at {height}x{width}\n"
        f"error: of the graph in fp32, relative, against {result.parity.reference}; up to "
        f"{result.explained[-1].allowed:.1e} is allowed here: 1e-5, or twice what rounding to fp32 "
        "does to the network itself\n",
        markup=False,
    )


def refusals(step: "Step") -> Iterator[str]:
    """At most two places of each reason; a deep network would repeat itself."""
    for reason, places in step.refusals().items():
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        yield f"{step.name} left out {', '.join(places[:2])}{more}: {reason}"
