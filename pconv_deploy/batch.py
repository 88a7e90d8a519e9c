"""Filling files: which image goes with which mask, and a pipeline that loses nothing.

Decoding and encoding run beside the engine. A picture is on disk whole before it counts as
done; a file that fails is reported and passed over.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pconv_deploy.errors import EngineError, HoleMaskError, InputError, PConvError, UsageError
from pconv_deploy.images import (
    DEFAULT_MAX_PIXELS,
    Hole,
    MaskConvention,
    Pixels,
    as_displayed,
    dilated,
    hole_as_stored,
    like,
    read_hole_mask,
    read_image,
    resized_hole,
    save_image,
)
from pconv_deploy.inpainter import Inpainter, Prepared

IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".ppm",
        ".pgm",
        ".jp2",
        ".avif",
    ]
)
OUTPUT_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"])


@dataclass(frozen=True)
class Job:
    """One image file, its mask file (None if there is none) and where the result goes."""

    image: Path
    mask: Path | None
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job. skipped: its output was there already; error: it failed."""

    job: Job
    skipped: bool = False
    error: PConvError | None = None
    had_hole: bool = True


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """How files are read, filled and written.

    dilate         pixels by which every hole grows, so that no seam of the removed thing stays
    fit_masks      scale a mask of another size to its image instead of refusing it
    jpeg_quality   1..100, where the output is JPEG
    max_pixels     larger images are refused before they are decoded
    """

    batch: int = 1
    mask_convention: MaskConvention = "hole-white"
    dilate: int = 0
    fit_masks: bool = False
    jpeg_quality: int = 95
    max_pixels: int = DEFAULT_MAX_PIXELS


# --- planning -----------------------------------------------------------------------------


def plan_jobs(images: Path, masks: Path, output: Path, suffix: str | None = ".png") -> list[Job]:
    """Pair images with masks and name the outputs, never two alike.

    Args:
        images: a file, or a folder read with its subfolders.
        masks: a file, for every image; or a folder, where the mask of `a/b.jpg` is `a/b.*`,
            or each of `a/b_mask*.*` (every such mask gives an output of its own).
        output: a folder; or, for a single image, a file.
        suffix: of the outputs, if `output` is no file; None keeps each image's own.

    Raises:
        InputError: something does not exist, or a folder holds no images.
        UsageError: an output would overwrite an input, or is of a kind we do not write.
    """
    if not masks.exists():
        raise InputError(f"{masks} does not exist")
    if images.is_dir():
        if output.is_file():
            raise UsageError(f"{images} is a folder, so {output} must be one too; it is a file")
        jobs = _plan_folder(images, masks, output, suffix)
    elif not images.exists():
        raise InputError(f"{images} does not exist")
    elif output.suffix.lower() in OUTPUT_SUFFIXES and not output.is_dir():
        found = _masks_of(images.parent, images, masks)
        if len(found) > 1:
            raise UsageError(f"{len(found)} masks fit {images}; give a folder for the outputs")
        jobs = [Job(images, found[0] if found else None, output)]
    else:
        jobs = _named(images.parent, [images], masks, output, suffix)
    _refuse_losses(jobs)
    return jobs


def _plan_folder(images: Path, masks: Path, output: Path, suffix: str | None) -> list[Job]:
    found = _images_below(images)
    if masks.is_dir():  # masks kept below the images are not images
        found = [path for path in found if masks == images or masks not in path.parents]
    if not found:
        raise InputError(f"{images} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return _named(images, found, masks, output, suffix)


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _masks_of(root: Path, image: Path, masks: Path) -> list[Path]:
    if masks.is_file():
        return [masks]
    folder = masks / image.relative_to(root).parent
    beside = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    same = [p for p in beside if p.stem == image.stem and p != image]
    return same[:1] or [p for p in beside if p.stem.startswith(f"{image.stem}_mask")]


def _named(
    root: Path, images: Sequence[Path], masks: Path, output: Path, suffix: str | None
) -> list[Job]:
    pairs = [
        (image, mask) for image in images for mask in (*_masks_of(root, image, masks),) or (None,)
    ]
    masks_per_image = Counter(image for image, _ in pairs)
    stems = [
        (
            image.relative_to(root).parent,
            mask.stem if masks_per_image[image] > 1 and mask else image.stem,
        )
        for image, mask in pairs
    ]
    # By what a file system that ignores case would call the same.
    uses = Counter((parent, stem.lower()) for parent, stem in stems)
    jobs = []
    for (image, mask), (parent, stem) in zip(pairs, stems, strict=True):
        unique = stem if uses[parent, stem.lower()] == 1 else f"{stem}{image.suffix}"
        jobs.append(Job(image, mask, output / parent / f"{unique}{suffix or image.suffix}"))
    return jobs


def _refuse_losses(jobs: Sequence[Job]) -> None:
    inputs = {p.resolve() for job in jobs for p in (job.image, job.mask) if p is not None}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(f"{job.output} is an input; choose another output folder")
        if job.output.suffix.lower() not in OUTPUT_SUFFIXES:
            raise UsageError(
                f"cannot write {job.output}: needed one of {' '.join(sorted(OUTPUT_SUFFIXES))}"
            )
    for output, count in Counter(str(job.output).lower() for job in jobs).items():
        if count > 1:
            raise UsageError(f"{count} images would be written to {output}; rename them")


def settle_existing(jobs: Sequence[Job], *, resume: bool, overwrite: bool) -> list[bool]:
    """Say of each job whether its output is there already and is to be kept.

    Raises:
        UsageError: outputs exist, and neither `resume` nor `overwrite` says what to do.
    """
    exist = [job.output.exists() for job in jobs]
    if any(exist) and not (resume or overwrite):
        first = jobs[exist.index(True)].output
        raise UsageError(
            f"{sum(exist)} of {len(jobs)} outputs exist already ({first}); "
            "pass --resume to keep them and do the rest, or --overwrite to do all again"
        )
    return [there and resume for there in exist]


# --- doing --------------------------------------------------------------------------------


@dataclass
class _Loaded:
    image: Image.Image
    prepared: Prepared


@dataclass
class _Batch:
    jobs: Sequence[Job]
    loading: Sequence[Future[_Loaded]]
    saving: list[Future[None]] = field(default_factory=list)


def fill_jobs(
    inpainter: Inpainter, jobs: Sequence[Job], options: FillOptions | None = None
) -> Iterator[Outcome]:
    """Do the jobs, batch by batch; yield each outcome once its file is on disk.

    Raises:
        OutputError: nothing more can be written (the disk is full, say). What was finished
            before stays; so it does when the caller stops early.
    """
    options = options or FillOptions()
    read_mask = lru_cache(maxsize=1)(read_hole_mask)  # one mask for all is decoded once

    def load(job: Job) -> _Loaded:
        return _load(inpainter, job, options, read_mask)

    batches = [jobs[i : i + options.batch] for i in range(0, len(jobs), options.batch)]
    pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pconv-files")
    try:
        ahead = [pool.submit(load, job) for job in batches[0]] if batches else []
        for number, batch in enumerate(batches):
            loading = ahead
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(load, job) for job in following]
            yield from _finish_batch(inpainter, batch, loading, pool, options)
    finally:
        # What is being written is finished, what is waiting is dropped.
        pool.shutdown(wait=True, cancel_futures=True)


def _finish_batch(
    inpainter: Inpainter,
    jobs: Sequence[Job],
    loading: Sequence[Future[_Loaded]],
    pool: ThreadPoolExecutor,
    options: FillOptions,
) -> Iterator[Outcome]:
    loaded: dict[Job, _Loaded] = {}
    for job, future in zip(jobs, loading, strict=True):
        try:
            loaded[job] = future.result()
        except PConvError as error:
            yield Outcome(job, error=error)
    writing: list[tuple[Job, Future[None]]] = []
    for job, pixels in _fill(inpainter, loaded):
        if isinstance(pixels, EngineError):
            yield Outcome(job, error=pixels)
        else:
            picture = like(loaded[job].image, pixels)
            writing.append(
                (job, pool.submit(save_image, job.output, picture, options.jpeg_quality))
            )
    for job, written in writing:
        try:
            written.result()
        except InputError as error:
            yield Outcome(job, error=error)
        else:
            yield Outcome(job, had_hole=bool(loaded[job].prepared.hole.any()))


def _fill(
    inpainter: Inpainter, loaded: dict[Job, _Loaded]
) -> Iterator[tuple[Job, Pixels | EngineError]]:
    prepared = [item.prepared for item in loaded.values()]
    try:
        yield from zip(loaded, inpainter.fill(prepared), strict=True)
    except EngineError:
        # One image too large for the memory must not take its neighbours along.
        for job, item in loaded.items():
            try:
                yield job, inpainter.fill([item.prepared])[0]
            except EngineError as error:
                yield job, error


def _load(
    inpainter: Inpainter, job: Job, options: FillOptions, read_mask: Callable[..., Hole]
) -> _Loaded:
    if job.mask is None:
        raise HoleMaskError(f"{job.image} has no mask of the same name")
    image = read_image(job.image, options.max_pixels)
    hole = read_mask(job.mask, options.mask_convention, options.max_pixels)
    # Masks are drawn over the picture as viewers show it.
    width, height = as_displayed(image).size
    if hole.shape != (height, width):
        if not options.fit_masks:
            raise HoleMaskError(
                f"{job.mask} is {hole.shape[1]}x{hole.shape[0]}, {job.image} is {width}x{height}; "
                "needed the same size. Scale masks to their images with --fit-masks"
            )
        hole = resized_hole(hole, (height, width))
    hole = dilated(hole, options.dilate)
    try:
        return _Loaded(image, inpainter.prepare(image, hole_as_stored(hole, image)))
    except HoleMaskError as error:
        raise HoleMaskError(f"{job.mask}: {error}; see --mask-convention") from error
    except InputError as error:
        raise type(error)(f"{job.image}: {error}") from error
