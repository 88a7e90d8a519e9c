"""`pconv-deploy verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pconv_deploy.cli.console import ERR, OUT, counted, print_json, silence_pillow
from pconv_deploy.cli.options import (
    JsonOutput,
    MaskOptions,
    MaxMegapixels,
    OptionalSize,
    Overwrite,
    WeightsKey,
    between,
)
from pconv_deploy.errors import ParityError, UsageError, needs

if TYPE_CHECKING:
    from pconv_deploy.verification.candidates import CandidateFacts
    from pconv_deploy.verification.measures import ClassResult, Difference
    from pconv_deploy.verification.results import Verification, VerifyResult

# Three lines, so that each stands alone and all fit into 80 columns; in and out of the hole.
_TITLES = (
    "n",
    "raw\nerror\ninside",
    "raw\nerror\noutside",
    "raw\nPSNR\ninside",
    "raw\nPSNR\noutside",
    "filled\nlevels\nof 255",
    "filled\nPSNR",
    "known\nsame",
)
_NOTHING = "-"


def verify(
    a: Path,
    b: Path,
    *,
    photos: Annotated[Path | None, typer.Option("--photos", "--images")] = None,
    holes: Annotated[Path | None, typer.Option("--holes", "--masks")] = None,
    mask_options: MaskOptions,
    size: OptionalSize = None,
    count: Annotated[int, between(1, 1000)] = 3,
    seed: Annotated[int, between(0)] = 0,
    dtype: Literal["fp64", "fp32"] = "fp64",
    weights_key: WeightsKey = None,
    tolerance: Annotated[float | None, between(0, 1)] = None,
    picture: Path | None = None,
    overwrite: Overwrite = False,
    json_output: JsonOutput = False,
    max_megapixels: MaxMegapixels = 8.4,
) -> None:
    """Compare any two of checkpoint, exported graph and engine, by classes of holes.

    A checkpoint is computed by the literal network, a graph by ONNX Runtime without
    optimisation, an engine by its runtime. Both fill the same pictures through holes of the
    paper's six areas, none, all, one pixel and all but one. The exit code is 0 within the
    tolerance and 4 beyond it.

    Options:
        a: Checkpoint, exported ONNX file or engine folder.
        b: The one to compare with A: checkpoint, ONNX file or engine folder.
        photos: Image file or folder (searched recursively) to fill. Default: synthetic patterns.
        holes: Folder of hole masks. Default: random holes.
        size: Height x width: photos are scaled and cropped, masks are stretched. Default: the
            fixed size, or the smallest possible from 256.
        count: Holes per class of hole area (6 classes).
        seed: Random seed.
        dtype: Precision in which a checkpoint is computed.
        tolerance: Allowed relative error. Default: that of the lower precision of the two.
        picture: Image file to write: the case with the largest difference, and a difference map.
        max_megapixels: Maximum image size in megapixels; larger images are refused before
            decoding. 1 megapixel takes about 1.1 GiB.
    """
    with needs("pconv-deploy"):
        from pconv_deploy.verification.pictures import PictureOptions
        from pconv_deploy.verification.results import VerifyRequest
        from pconv_deploy.verification.run import verify as run

    silence_pillow()
    if picture is not None:
        _require_free(picture, overwrite)
    request = VerifyRequest(
        a=a,
        b=b,
        dtype=dtype,
        weights_key=weights_key,
        pictures=PictureOptions(
            photos=photos,
            holes=holes,
            mask_rule=mask_options.rule(),
            count=count,
            seed=seed,
            max_pixels=int(max_megapixels * 1e6),
        ),
        size=size,
        tolerance=tolerance,
    )
    with counted("verifying") as progress:
        result = run(request, progress)
    _report(result, picture, json_output=json_output)


def _require_free(picture: Path, overwrite: bool) -> None:
    """Refuse early what could not be written after all the work."""
    from pconv_deploy.images.writing import require_writable

    require_writable(picture, "RGB")
    if picture.exists() and not overwrite:
        raise UsageError(f"{picture} already exists; pass --overwrite to replace it")


def _report(outcome: "VerifyResult", picture: Path | None, *, json_output: bool) -> None:
    verification = outcome.verification
    for warning in verification.warnings:
        ERR.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if json_output:
        print_json(verification)
    else:
        show(verification)
    if picture is not None:
        from pconv_deploy.images.writing import save_image
        from pconv_deploy.verification.picture import worst_picture

        names = (verification.a.path, verification.b.path)
        save_image(picture, worst_picture(outcome.worst, names))
        console = ERR if json_output else OUT  # stdout holds JSON alone
        console.print(f"[bold]{escape(str(picture))}[/bold]  {escape(outcome.worst.result.name)}")
    try:
        verification.require_success()
    except ParityError as error:
        if picture is None:
            raise ParityError(f"{error}\n  See where: --picture worst.png") from None
        raise


def show(verification: "Verification") -> None:
    """Print who was compared, and a line for each class of holes."""
    for name, candidate in (("A", verification.a), ("B", verification.b)):
        OUT.print(f"[bold]{name}[/bold]  {escape(candidate.path)}: {_described(candidate)}")
    pictures = escape(verification.photos) if verification.photos else "patterns"
    holes = f"of {escape(verification.holes)}" if verification.holes else "drawn"
    OUT.print(
        f"{len(verification.cases)} pictures of {verification.height}x{verification.width} "
        f"(height x width): {pictures}; holes {holes}; seed {verification.seed}"
    )
    cells = [(str(row.cases), *_cells(row)) for row in verification.classes]
    # A candidate may give no raw output, and then four columns have nothing to show.
    shown = [i for i in range(len(_TITLES)) if any(row[i] != _NOTHING for row in cells)]
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)
    table.add_column("\n\nholes", no_wrap=True)
    for title in (_TITLES[i] for i in shown):
        table.add_column("\n" * (2 - title.count("\n")) + title, justify="right", no_wrap=True)
    table.add_column("\n\nverdict", no_wrap=True)
    for result, row in zip(verification.classes, cells, strict=True):
        table.add_row(result.hole_class, *(row[i] for i in shown), _verdict(result))
    OUT.print(table)
    for line in _notes(verification):
        OUT.print(line, markup=False)


def _described(candidate: "CandidateFacts") -> str:
    key = (
        f", weights {escape(candidate.source.weights_key)}" if candidate.source.weights_key else ""
    )
    return f"{candidate.kind}{key}, {escape(candidate.computed_by)}, {candidate.precision}"


def _cells(row: "ClassResult") -> list[str]:
    inside, outside, filled = row.raw_inside, row.raw_outside, row.composite_inside
    return [
        _NOTHING if inside is None else f"{inside.relative_error:.1e}",
        _NOTHING if outside is None else f"{outside.relative_error:.1e}",
        _psnr(inside),
        _psnr(outside),
        _NOTHING if filled is None else f"{filled.levels:.0f}",
        _psnr(filled),
        {True: "yes", False: "NO", None: _NOTHING}[row.known_identical],
    ]


def _psnr(difference: "Difference | None") -> str:
    if difference is None:
        return _NOTHING
    return "equal" if difference.psnr is None else f"{difference.psnr:.1f}"


def _verdict(row: "ClassResult") -> str:
    if row.finite is False:
        return "[red]NaN[/red]"
    return "[red]FAIL[/red]" if row.failed else "ok"


def _notes(verification: "Verification") -> list[str]:
    """What the table does not say of itself."""
    candidates = (("A", verification.a), ("B", verification.b))
    lines = []
    if not verification.raw_output_compared:
        silent = " and ".join(
            n for n, candidate in candidates if "raw_output" not in candidate.gives
        )
        lines.append(f"Raw outputs were not compared: {silent} has only the composite.")
    made = " and ".join(
        name for name, candidate in candidates if "composite" not in candidate.gives
    )
    if made:
        lines.append(f"Of {made} the composite is made from the raw output.")
    lines += _allowances(verification)
    return lines


def _allowances(verification: "Verification") -> list[str]:
    most = max(case.allowed for case in verification.cases)
    more = (
        f", up to {most:.1e} where rounding alone does it" if most > verification.tolerance else ""
    )
    where = "" if verification.outside_judged else " in the holes"
    lines = [f"Allowed: relative error{where} {verification.tolerance:.1e}{more};"]
    levels = verification.level_tolerance
    beyond = "" if levels is None else f"composites {levels} of 255 beyond what that error makes; "
    lines.append(f"{beyond}known pixels equal.")
    needed = verification.hole_psnr_needed
    if needed is not None:
        found = "equal" if verification.hole_psnr is None else f"{verification.hole_psnr:.1f} dB"
        lines.append(f"PSNR in all holes of 1-60%: {found}, needed {needed:.1f} dB.")
    return lines
