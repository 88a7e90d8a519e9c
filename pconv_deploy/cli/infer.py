"""`pconv-deploy infer`."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from pconv_deploy.cli.console import print_result, progress_bar, refuse_both, silence_pillow
from pconv_deploy.cli.options import (
    Batch,
    Count,
    Engine,
    MaskOptions,
    OptionalShard,
    Output,
    Overwrite,
    PhotoLimits,
    between,
)
from pconv_deploy.errors import BatchIncompleteError, UsageError, needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pconv_deploy.commands.infer import FileResult, FillOptions
    from pconv_deploy.commands.jobs import Job
    from pconv_deploy.images.files import Convertible
    from pconv_deploy.inpainter import Inpainter

_MOST_AT_ONCE = 4  # batches: memory grows with them
_NAMED = 10  # images with a note, by name


Format = Literal["png", "jpg", "webp", "tif", "same"]


def infer(
    engine: Engine,
    images: Path,
    masks: Path,
    output: Output,
    *,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN")] = None,
    batch: Batch = 1,
    at_once: Annotated[int | None, between(1, 64)] = None,
    image_format: Annotated[Format | None, typer.Option("--format", metavar="FORMAT")] = None,
    quality: Annotated[int, between(1, 100)] = 95,
    compression: Literal["fast", "small"] = "fast",
    mask_options: MaskOptions,
    masks_as_stored: bool = False,
    dilate: Annotated[int, between(0, 200)] = 0,
    feather: Annotated[int, between(0, 100)] = 0,
    fit_masks: bool = False,
    opaque: bool = False,
    convert_cmyk: bool = False,
    convert_16_bit: bool = False,
    resume: bool = False,
    shard: OptionalShard = None,
    overwrite: Overwrite = False,
    threads: Count = None,
    limits: PhotoLimits,
) -> None:
    """Fill the holes of images, one or a folder of them.

    Every known pixel, the alpha channel, colour profile, EXIF and resolution are kept. A picture
    that cannot be read, or has no mask or several, is reported and skipped; the exit code is then
    8. Holes that look like mistakes, such as inverted ones, are filled with a note.
    After Ctrl-C the finished outputs stay and --resume does the rest.

    Options:
        images: Image file, or folder (searched recursively).
        masks: Hole mask for all images, or folder of masks: a/b.jpg belongs to a/b.*, a/b.jpg.* or
            a/b_mask*.*; see docs/files.md.
        output: Output folder, or output file for a single image.
        exclude: Exclude images and masks whose name or path matches, such as '*.heic' or
            'masks/*.jpg'. Repeatable.
        at_once: Batches that run at the same time: more throughput, proportionally more memory.
            Default: as many as cores, at most 4; one on a GPU or for one batch.
        image_format: Output format in a folder: png, jpg, webp, tif, or same as the image. jpg
            changes known pixels as well. Default: png.
        quality: JPEG quality.
        compression: Compression of PNG and WebP; small takes several times as long.
        masks_as_stored: Masks match the stored pixels, without EXIF orientation applied.
        dilate: Grow every hole by this many pixels.
        feather: Width in pixels of a soft edge inside the hole, where some of what was there stays.
        fit_masks: Scale masks to their images.
        opaque: Make filled pixels opaque. Default: keep alpha.
        convert_cmyk: Convert CMYK images to sRGB by their colour profile instead of refusing them.
        convert_16_bit: Reduce 16-bit colour images to 8 bits instead of refusing them.
        resume: Keep existing outputs and process the rest.
        shard: Process one of N parts of the images, I from 0 to N-1, for N machines that share the
            folders. A file is always in the same part.
        threads: CPU threads per inference. Default: all cores, divided by --at-once.
    """
    refuse_both(resume, overwrite)
    with needs("pconv-deploy"):
        from pconv_deploy.commands.infer import FillOptions
        from pconv_deploy.commands.jobs import in_shard, plan_jobs, settle_existing
        from pconv_deploy.images.writing import Encoding
        from pconv_deploy.inpainter import Inpainter

    silence_pillow()
    suffix = None if image_format == "same" else f".{image_format or 'png'}"
    jobs = plan_jobs(images, masks, output, suffix, exclude=exclude or ())
    if image_format and suffix and any(_short(job.output.suffix) != suffix for job in jobs):
        raise UsageError(f"{output} is not of --format {image_format}: give one of them")
    if shard:
        jobs = [job for job in jobs if in_shard(job, output, *shard)]
    done_before = settle_existing(jobs, resume=resume, overwrite=overwrite)
    waiting = [job for job, done in zip(jobs, done_before, strict=True) if not done]
    convertible: tuple[tuple[Convertible, bool], ...] = (
        ("cmyk", convert_cmyk),
        ("16-bit", convert_16_bit),
    )
    at_once = at_once or _usual_at_once(engine, math.ceil(len(waiting) / batch))
    options = FillOptions(
        batch=batch,
        at_once=at_once,
        mask_rule=mask_options.rule(),
        masks_as_stored=masks_as_stored,
        dilate=dilate,
        feather=feather,
        fit_masks=fit_masks,
        opaque=opaque,
        convert=frozenset(kind for kind, wanted in convertible if wanted),
        encoding=Encoding(quality=quality, compression=compression),
        max_pixels=int(limits.max_megapixels * 1e6),
    )
    if threads is None and at_once > 1:
        threads = max(1, _cores() // at_once)
    regions = limits.regions()
    with Inpainter.load(engine, threads=threads, streams=at_once, regions=regions) as inpainter:
        again = "--overwrite" if overwrite else "--resume"
        outcomes = _fill_with_progress(inpainter, waiting, options, again)
    _summarise(jobs, outcomes, output)


def _usual_at_once(engine: Path, batches: int) -> int:
    """On a CPU, batches beside each other lose less time at the ends of layers than threads do."""
    from pconv_deploy.engines.manifest import read_manifest
    from pconv_deploy.engines.registry import backend_named

    if backend_named(read_manifest(engine).backend).traits.device != "cpu":
        return 1
    return max(1, min(_MOST_AT_ONCE, _cores(), batches))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _short(suffix: str) -> str:
    """The suffix that `--format` gives to files of a format."""
    suffix = suffix.lower()
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _fill_with_progress(
    inpainter: "Inpainter", jobs: "Sequence[Job]", options: "FillOptions", again: str
) -> "list[FileResult]":
    from pconv_deploy.commands.infer import fill_jobs

    outcomes: list[FileResult] = []
    with progress_bar("filling", transient=False, disable=len(jobs) < 2) as progress:
        task = progress.add_task("", total=len(jobs))
        try:
            for outcome in fill_jobs(inpainter, jobs, options):
                outcomes.append(outcome)
                progress.advance(task)
                if outcome.error is not None and len(jobs) > 1:
                    progress.console.print(f"[red]failed:[/red] {escape(str(outcome.error))}")
        except KeyboardInterrupt:
            done = sum(o.error is None for o in outcomes)
            progress.console.print(f"{done} of {len(jobs)} done; run it again with {again}")
            raise
        finally:
            for line in _notes(outcomes):
                progress.console.print(f"[yellow]note:[/yellow] {escape(line)}")
    return outcomes


def _notes(outcomes: "Sequence[FileResult]") -> "Iterator[str]":
    """One line for each kind of note: the first image's, and which others it is true of."""
    found: dict[str, list[tuple[Job, str]]] = {}
    for outcome in outcomes:
        for note in outcome.notes:
            found.setdefault(note.kind, []).append((outcome.job, note.text))
    for (job, text), *others in found.values():
        line = f"{job.image}, {job.mask}: {text}"
        if others:
            names = ", ".join(str(other.image) for other, _ in others[:_NAMED])
            more = ", ..." * (len(others) > _NAMED)
            line += f" [and {len(others)} more like it: {names}{more}]"
        yield line


def _summarise(jobs: "Sequence[Job]", outcomes: "Sequence[FileResult]", output: Path) -> None:
    failed = sum(outcome.error is not None for outcome in outcomes)
    kept = len(jobs) - len(outcomes)
    if len(jobs) == 1 and failed:
        error = outcomes[0].error
        assert error is not None
        raise error
    if failed:
        raise BatchIncompleteError(
            f"{failed} of {len(jobs)} failed, as listed above"
            + (f"; the others are in {output}" if failed < len(jobs) else "")
        )
    target = jobs[0].output if len(jobs) == 1 else output
    filled = sum(outcome.had_hole for outcome in outcomes)
    note = f", {len(outcomes) - filled} unchanged" if filled < len(outcomes) else ""
    note += f", {kept} kept from before" if kept else ""
    print_result(target, f"{filled} filled{note}")
