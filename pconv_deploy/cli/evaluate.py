"""`pconv-deploy evaluate`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pconv_deploy.cli.console import (
    OUT,
    print_json,
    print_result,
    progress_bar,
    refuse_both,
    silence_pillow,
)
from pconv_deploy.cli.options import (
    Count,
    JsonOutput,
    MaskOptions,
    MaxMegapixels,
    OptionalSize,
    Output,
    Overwrite,
    between,
)
from pconv_deploy.errors import BatchIncompleteError, UsageError, needs

if TYPE_CHECKING:
    from pconv_deploy.evaluation.run import Evaluation
    from pconv_deploy.evaluation.summary import Results
    from pconv_deploy.evaluation.worker import EvaluationRequest, TaskResult

# Of one method; all are in results.json.
_SHOWN_FAILURES = 10


def evaluate(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD")],
    images: Annotated[Path, typer.Option("--images", "--photos")],
    output: Output,
    *,
    masks: Annotated[Path | None, typer.Option("--masks", "--holes")] = None,
    size: OptionalSize = None,
    per_class: Annotated[int | None, between(1)] = None,
    seed: Annotated[int, between(0)] = 0,
    mask_options: MaskOptions,
    vgg16: Path | None = None,
    lpips_heads: Path | None = None,
    inception: Path | None = None,
    workers: Annotated[int, between(1, 256)] = 1,
    threads: Count = None,
    resume: bool = False,
    overwrite: Overwrite = False,
    json_output: JsonOutput = False,
    max_megapixels: MaxMegapixels = 8.4,
) -> None:
    """Compare checkpoints, engines and classical methods on holes of the paper's classes.

    Writes results.json, table.md and grid.png. A picture that cannot be read, and a method that
    fails on one, is reported and skipped; the exit code is then 8. After an interruption --resume
    computes what is missing; methods may be added to an evaluation.

    Options:
        methods: Checkpoint, engine folder, or one of mean, telea, navier-stokes, patchmatch,
            biharmonic. LABEL=METHOD sets its name in the table.
        images: Image file without holes, or folder (searched recursively).
        output: Output folder for tables, pictures and scores.
        masks: Folder of hole masks. Default: 12 random holes per image.
        size: Height x width: images are scaled and centre-cropped, masks are stretched. Default:
            the size of each mask.
        per_class: Image-mask pairs per hole class (12 classes). Default: every mask once.
        seed: Random seed of pairing and random holes.
        vgg16: torchvision's vgg16-397923af.pth; enables LPIPS.
        lpips_heads: lpips' weights/v0.1/vgg.pth. Default: from torchmetrics or lpips.
        inception: pytorch-fid's Inception weights (see docs/evaluation.md); enables FID and
            Inception score.
        workers: Worker processes; if more than one, each uses one thread.
        threads: CPU threads of a single worker. Default: each method's choice.
        resume: Keep existing scores and compute the rest.
        max_megapixels: Maximum image size in megapixels; larger images are refused before
            decoding. 1 megapixel takes about 1.1 GiB.
    """
    refuse_both(resume, overwrite)
    if workers > 1 and threads not in (None, 1):
        raise UsageError("several --workers take one thread each: leave --threads out")
    with needs("pconv-deploy[evaluate]"):
        from pconv_deploy.evaluation.methods import parse_methods
        from pconv_deploy.evaluation.pairs import Protocol
        from pconv_deploy.evaluation.report import write_reports
        from pconv_deploy.evaluation.summary import summarise
        from pconv_deploy.evaluation.weights import WeightFiles
        from pconv_deploy.evaluation.worker import EvaluationRequest

    silence_pillow()
    request = EvaluationRequest(
        methods=parse_methods(methods),
        protocol=Protocol(
            images=images,
            masks=masks,
            mask_rule=mask_options.rule(),
            size=size,
            per_class=per_class,
            seed=seed,
            max_pixels=int(max_megapixels * 1e6),
        ),
        output=output,
        weights=WeightFiles(vgg16, lpips_heads, inception),
        workers=workers,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
    )
    evaluation = _with_progress(request)
    results = summarise(evaluation)
    write_reports(request, evaluation, results)
    if json_output:
        print_json(results)
    else:
        show(results)
        kept = f", {evaluation.kept} scores kept from before" if evaluation.kept else ""
        print_result(output, f"results.json, table.md, grid.png{kept}")
    _require_complete(results, output)


def _require_complete(results: "Results", output: Path) -> None:
    if results.failures:
        raise BatchIncompleteError(
            f"{len(results.failures)} failures, listed in {output / 'results.json'}; the averages "
            f"are over the {results.compared} of {results.pairs} pairs that every method filled"
        )
    if results.unread:
        raise BatchIncompleteError(
            f"{len(results.unread)} pictures were not read, listed in {output / 'results.json'}; "
            "the averages are over the others"
        )


def _with_progress(request: "EvaluationRequest") -> "Evaluation":
    from pconv_deploy.evaluation.journal import readable
    from pconv_deploy.evaluation.run import evaluate as run

    with progress_bar("evaluating") as progress:
        task = progress.add_task("", total=None)
        failed: Counter[str | None] = Counter()

        def report(done: int, of: int, outcome: "TaskResult") -> None:
            progress.update(task, completed=done, total=of)
            for failure in outcome.failures:
                failed[failure.method] += 1
                if failed[failure.method] <= _SHOWN_FAILURES:
                    where = f"{failure.method} on {failure.image}: " if failure.method else ""
                    shown = escape(readable(where + failure.message))
                    progress.console.print(f"[red]failed:[/red] {shown}")

        try:
            return run(request, report)
        except KeyboardInterrupt:
            progress.console.print("stopped; --resume does the rest")
            raise


def show(results: "Results") -> None:
    """Print the table: metric, method and border down, area across."""
    from pconv_deploy.evaluation.report import bucket_title, description, number, shown_metrics
    from pconv_deploy.masks.irregular import AREA_BUCKETS

    for line in description(results):
        OUT.print(line, markup=False)
    buckets = [
        bucket
        for bucket in (*AREA_BUCKETS, None)
        if results.cell(results.methods[0], bucket, None) is not None
    ]
    borders = [b for b in (False, True) if results.cell(results.methods[0], None, b) is not None]
    for metric in shown_metrics(results):
        table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(metric.title, overflow="fold")
        table.add_column("border", no_wrap=True)
        for bucket in buckets:
            table.add_column(bucket_title(bucket), justify="right", no_wrap=True)
        for method in results.methods:
            for border in borders:
                cells = [results.cell(method, bucket, border) for bucket in buckets]
                values = [number(cell.value(metric) if cell else None, metric) for cell in cells]
                table.add_row(escape(method), "yes" if border else "no", *values)
        OUT.print(table)
