"""Filling files, many at a time: a pipeline that loses nothing.

Decoding and encoding run beside the engine. A picture is on disk whole before it counts as
done; a file that fails is reported and passed over.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from pconv_deploy.errors import (
    EngineError,
    HoleMaskError,
    ImageError,
    InputError,
    PConvError,
    UsageError,
)
from pconv_deploy.hole_rule import DEFAULT_RULE, MaskReading, MaskRule
from pconv_deploy.image_files import (
    DEFAULT_MAX_PIXELS,
    FURTHER_PICTURES,
    Convertible,
    displayed_size,
    hole_as_stored,
    read_image,
    read_mask_file,
    require_writable,
    save_image,
)
from pconv_deploy.images import (
    Hole,
    Pixels,
    cmyk_to_srgb,
    dilated,
    exif_orientation,
    like,
    resized_hole,
    to_pixels,
)
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.jobs import Job
from pconv_deploy.notes import Note


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` is None if its output is on disk.

    had_hole  false: the output is the image as it was
    notes     what may not be meant
    """

    job: Job
    error: PConvError | None = None
    had_hole: bool = True
    notes: Sequence[Note] = ()


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """How files are read, filled and written.

    at_once          batches in the engine at the same time; open it with as many streams
    mask_rule        which pixels of a mask are hole
    masks_as_stored  EXIF orientations, of images and masks, say nothing of where the hole is
    dilate           pixels by which every hole grows, so that no seam of the removed thing stays
    fit_masks        scale a mask of another size to its image instead of refusing it
    opaque           filled pixels lose their transparency
    convert          colour types that may be converted instead of refused
    jpeg_quality     1..100, where the output is JPEG
    max_pixels       larger images are refused before they are decoded
    """

    batch: int = 1
    at_once: int = 1
    mask_rule: MaskRule = DEFAULT_RULE
    masks_as_stored: bool = False
    dilate: int = 0
    fit_masks: bool = False
    opaque: bool = False
    convert: frozenset[Convertible] = frozenset()
    jpeg_quality: int = 95
    max_pixels: int = DEFAULT_MAX_PIXELS


@dataclass
class _Loaded:
    image: Image.Image
    prepared: Prepared
    notes: Sequence[Note]


def fill_jobs(
    inpainter: Inpainter, jobs: Sequence[Job], options: FillOptions | None = None
) -> Generator[Outcome]:
    """Do the jobs, batch by batch; yield each outcome once its file is on disk.

    Raises:
        OutputError: nothing more can be written (the disk is full, say). What was finished
            before stays; so it does when the caller stops early.
        UsageError: it is asked for more in a process forked meanwhile, which has no threads
            to do it.
    """
    process = os.getpid()
    for outcome in _outcomes(inpainter, jobs, options or FillOptions()):
        yield outcome
        if os.getpid() != process:
            raise UsageError("this process was forked while files were being filled; begin anew")


def _outcomes(
    inpainter: Inpainter, jobs: Sequence[Job], options: FillOptions
) -> Generator[Outcome]:
    read_mask = lru_cache(maxsize=1)(read_mask_file)  # one mask for all is decoded once

    def load(job: Job) -> _Loaded:
        return _load(inpainter, job, options, read_mask)

    batches = [jobs[i : i + options.batch] for i in range(0, len(jobs), options.batch)]
    pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pconv-files")
    engines = ThreadPoolExecutor(max_workers=options.at_once, thread_name_prefix="pconv-engine")
    running: deque[_Running] = deque()
    try:
        ahead = [pool.submit(load, job) for job in batches[0]] if batches else []
        for number, batch in enumerate(batches):
            loading = ahead
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(load, job) for job in following]
            loaded, failed = _when_loaded(batch, loading)
            yield from failed
            running.append(_Running(loaded, engines.submit(_fill, inpainter, loaded)))
            if len(running) == options.at_once:
                yield from _finish_batch(running.popleft(), pool, options)
        while running:
            yield from _finish_batch(running.popleft(), pool, options)
    finally:
        # What is being written is finished, what is waiting is dropped.
        engines.shutdown(wait=True, cancel_futures=True)
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Running:
    """A batch in the engine."""

    loaded: dict[Job, _Loaded]
    filled: Future[list[tuple[Job, Pixels | EngineError]]]


def _when_loaded(
    jobs: Sequence[Job], loading: Sequence[Future[_Loaded]]
) -> tuple[dict[Job, _Loaded], list[Outcome]]:
    """Wait for a batch's files; tell those that cannot be used."""
    loaded: dict[Job, _Loaded] = {}
    failed: list[Outcome] = []
    for job, future in zip(jobs, loading, strict=True):
        try:
            loaded[job] = future.result()
        except PConvError as error:
            failed.append(Outcome(job, error=error))
    return loaded, failed


def _finish_batch(
    running: _Running, pool: ThreadPoolExecutor, options: FillOptions
) -> Iterator[Outcome]:
    loaded = running.loaded
    writing: list[tuple[Job, Future[None]]] = []
    for job, pixels in running.filled.result():
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
            had_hole = bool(loaded[job].prepared.hole.any())
            yield Outcome(job, had_hole=had_hole, notes=loaded[job].notes)


def _fill(
    inpainter: Inpainter, loaded: dict[Job, _Loaded]
) -> list[tuple[Job, Pixels | EngineError]]:
    prepared = [item.prepared for item in loaded.values()]
    try:
        return list(zip(loaded, inpainter.fill(prepared), strict=True))
    except EngineError:
        # One image too large for the memory must not take its neighbours along.
        return [(job, _fill_alone(inpainter, job, item)) for job, item in loaded.items()]


def _fill_alone(inpainter: Inpainter, job: Job, item: _Loaded) -> Pixels | EngineError:
    try:
        return inpainter.fill([item.prepared])[0]
    except EngineError as error:
        return EngineError(f"{job.image}: {error}")


def _load(
    inpainter: Inpainter, job: Job, options: FillOptions, read_mask: Callable[..., MaskReading]
) -> _Loaded:
    if job.problem:
        raise InputError(job.problem)
    if job.mask is None:
        raise HoleMaskError(f"{job.image} has no mask of the same name")
    image, notes = _read(job, options)
    mask = read_mask(
        job.mask, options.mask_rule, options.max_pixels, as_stored=options.masks_as_stored
    )
    hole = _hole_as_stored(mask.hole, image, job, options)
    try:
        prepared = inpainter.prepare_hole(to_pixels(image), hole, mask, opaque=options.opaque)
    except HoleMaskError as error:
        raise HoleMaskError(f"{job.image}, {job.mask}: {error}") from error
    except InputError as error:
        raise type(error)(f"{job.image}: {error}") from error
    padded = prepared.padded_size
    if padded[0] * padded[1] > options.max_pixels and padded != hole.shape:
        raise ImageError(
            f"{job.image} is {image.width}x{image.height} and padded for the network "
            f"{padded[1]}x{padded[0]}, more than {options.max_pixels / 1e6:.1f} megapixels; see "
            "--max-megapixels"
        )
    require_writable(job.output, like(image, prepared.pixels).mode)
    return _Loaded(image, prepared, [*notes, *prepared.notes])


def _read(job: Job, options: FillOptions) -> tuple[Image.Image, list[Note]]:
    image = read_image(job.image, options.max_pixels, allow=options.convert)
    notes = []
    if further := image.info.get(FURTHER_PICTURES):
        left_out = f"{further} more in its file (previews, gain maps, second views) left out"
        notes.append(Note("further pictures", left_out))
    if image.mode == "CMYK":
        image, by_profile = cmyk_to_srgb(image)
        if not by_profile:
            plain = "the CMYK image has no colour profile of use; converted without, colours differ"
            notes.append(Note("no profile", plain))
    return image, notes


def _hole_as_stored(hole: Hole, image: Image.Image, job: Job, options: FillOptions) -> Hole:
    """The hole in the size of the image, in the order its pixels are stored in."""
    stored, shown = (image.height, image.width), displayed_size(image)
    # Masks are drawn over the picture as viewers show it, if nobody says otherwise.
    height, width = stored if options.masks_as_stored else shown
    if hole.shape != (height, width):
        sizes = f"{job.mask} is {hole.shape[1]}x{hole.shape[0]}, {job.image} is {width}x{height}"
        if _fits_turned(hole, (height, width)):
            raise HoleMaskError(f"{sizes}; {_why_turned(image, options)}")
        if not options.fit_masks:
            raise HoleMaskError(
                f"{sizes}; needed the same size. Scale masks to their images with --fit-masks"
            )
        hole = resized_hole(hole, (height, width))
    hole = dilated(hole, options.dilate)
    return hole if options.masks_as_stored else hole_as_stored(hole, image)


def _fits_turned(hole: Hole, size: tuple[int, int]) -> bool:
    """Whether a mask has the proportions of an image of (height, width) turned by 90 degrees."""
    rows, columns = hole.shape
    height, width = size
    rounding = max(size)  # sides of a scaled mask are whole numbers
    upright = abs(rows * width - columns * height) <= rounding
    return not upright and abs(rows * height - columns * width) <= rounding


def _why_turned(image: Image.Image, options: FillOptions) -> str:
    orientation = exif_orientation(image)
    if orientation < 5:
        return (
            "the mask fits turned by 90 degrees. Was one of them turned by its EXIF orientation? "
            "Turn the mask"
        )
    if options.masks_as_stored:
        return (
            f"the mask fits the image as viewers show it (EXIF orientation {orientation}): leave "
            "out --masks-as-stored"
        )
    return (
        f"the mask fits turned by 90 degrees, as the image is stored: viewers turn it (EXIF "
        f"orientation {orientation}). If masks were drawn over images as they are stored, use "
        "--masks-as-stored"
    )
