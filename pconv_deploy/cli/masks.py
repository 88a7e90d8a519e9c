"""`pconv-deploy masks`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pconv_deploy.cli.console import ERR, OUT, one_folder, print_json, print_result
from pconv_deploy.cli.options import (
    JsonOutput,
    MaskOptions,
    OptionalOutput,
    OptionalSize,
    Overwrite,
    between,
)
from pconv_deploy.cli.plain_help import Commands, add_command
from pconv_deploy.errors import HoleMaskError, UsageError, needs

if TYPE_CHECKING:
    from pconv_deploy.masks.checking import MaskSetReport

_NAMED = 5  # unreadable files named one by one

masks = typer.Typer(
    name="masks",
    cls=Commands,
    no_args_is_help=True,
    help="Sets of hole masks of the paper's classes.",
)


@masks.callback()
def _group() -> None:
    """Sets of hole masks of the paper's classes."""


def make(
    folder: Annotated[Path | None, typer.Argument()] = None,
    output: OptionalOutput = None,
    count: Annotated[int, typer.Option("--count", "--per-class", "-n", min=1)] = 10,
    size: OptionalSize = None,
    video: Annotated[list[Path] | None, typer.Option(metavar="PATH")] = None,
    flow: Literal["dis", "farneback"] = "dis",
    frame_step: Annotated[int, between(1, 1000)] = 1,
    seed: Annotated[int, between(0)] = 0,
    workers: Annotated[int | None, between(1, 256)] = None,
    plot: Path | None = None,
    no_plot: bool = False,
    overwrite: Overwrite = False,
) -> None:
    """Make irregular holes: 6 classes of area, with and without holes near the border.

    They are drawn, or with --video what moving things cover and uncover between two frames.

    Options:
        folder: Output folder.
        output: Output folder, as an option.
        count: Masks per hole class (12 classes).
        size: Mask height x width. Default: 512.
        video: Video file or folder of frames; moving regions become holes. Repeatable.
        flow: Method of motion estimation.
        frame_step: Distance between compared frames; 1 is consecutive.
        seed: Random seed.
        workers: Worker processes. Default: all cores.
        plot: Plot of the statistics to write. Default: OUTPUT.png.
        no_plot: Do not write the plot.
    """
    with needs("pconv-deploy[masks]"):
        from pconv_deploy.masks.mask_set import MaskSetOptions, make_mask_set
        from pconv_deploy.masks.plot import plot_mask_set
        from pconv_deploy.masks.reading import read_mask_set
        from pconv_deploy.masks.video import VideoSource

    if not video and (flow != "dis" or frame_step > 1):
        raise UsageError("--flow and --frame-step go with --video")
    place = one_folder(folder, output)
    height, width = size or (512, 512)
    picture = None if no_plot else _plot_path(place, plot, overwrite=overwrite)
    source = VideoSource(videos=tuple(video or ()), flow=flow, frame_step=frame_step)
    options = MaskSetOptions(
        height=height,
        width=width,
        per_class=count,
        seed=seed,
        video=source if video else None,
    )
    with Progress(console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        task = progress.add_task("making masks")
        made = make_mask_set(
            place,
            options,
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    print_result(place, f"{len(made.files)} hole masks")
    if picture:
        plot_mask_set(read_mask_set(place), picture)
        print_result(picture, "their statistics")


def _plot_path(output: Path, plot: Path | None, *, overwrite: bool) -> Path:
    path = plot or output.parent / f"{output.resolve().name}.png"
    if path.suffix.lower() != ".png":
        raise UsageError(f"cannot plot to {path}: needed a name that ends in .png")
    if output.resolve() in path.resolve().parents:
        raise UsageError(f"{path} is in the set itself, where it would pass for a mask")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} already exists; pass --overwrite to replace it, or --no-plot")
    return path


def check(
    folder: Path,
    *,
    mask_options: MaskOptions,
    json_output: JsonOutput = False,
) -> None:
    """Show what a folder of masks holds: sizes, classes, polarity, greys, broken files.

    The exit code is 3 if no mask can be used.

    Options:
        folder: Folder of masks (searched recursively).
    """
    from pconv_deploy.masks.checking import check_mask_set

    report = check_mask_set(folder, mask_options.rule())
    if json_output:
        print_json(report)
    else:
        _print_report(report)
    if report.complaint:
        raise HoleMaskError(report.complaint)


add_command(masks, make)
add_command(masks, check)


def _print_report(report: "MaskSetReport") -> None:
    used = report.pictures - len(report.unreadable)
    polarity = "cannot be told" if report.complaint else "as expected, holes are the minority"
    lines = {
        "masks": f"{used} of {report.pictures} files",
        "sizes": ", ".join(f"{size} ({count})" for size, count in report.sizes.items()),
        "polarity": "looks inverted" if report.inverted else polarity,
        "greys": f"{report.grey:.3%} of all pixels, in {report.grey_masks} masks"
        + (" (they count as hole)" if report.grey_masks else ""),
        "without class": f"{report.empty} empty, {report.below} up to 1 %, {report.above} above "
        f"60 %, {report.full} full",
    }
    if report.low_labels:
        lines["low values"] = (
            f"areas of values from 1 to 15 in {report.low_labels} masks count as known; if these "
            "are labels, use --mask-threshold 1"
        )
    for key, fact in lines.items():
        OUT.print(f"[bold]{key:>15}[/bold]  {escape(fact)}")
    for message in report.unreadable[:_NAMED]:
        OUT.print(f"[red]{'unreadable':>15}[/red]  {escape(message)}")
    if len(report.unreadable) > _NAMED:
        OUT.print(f"{'':>15}  and {len(report.unreadable) - _NAMED} more")
    table = Table("hole", "near the border", "far from it", box=None)
    for count in report.classes:
        low, high = count.area
        table.add_row(f"{low:.0%} to {high:.0%}", str(count.border), str(count.no_border))
    OUT.print(table)
