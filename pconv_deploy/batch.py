"""Filling files, many at a time: a pipeline that loses nothing.

Decoding and encoding run beside the engine. A picture is on disk whole before it counts as
done; a file that fails is reported and passed over.
"""

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
)
from pconv_deploy.image_files import (
    DEFAULT_MAX_PIXELS,
    MaskConvention,
    displayed_size,
    hole_as_stored,
    read_hole_mask,
    read_image,
    require_writable,
    save_image,
)
from pconv_deploy.images import Hole, Pixels, dilated, like, resized_hole
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.jobs import Job


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` is None if its output is on disk.

    had_hole       false: the output is the image as it was
    hole_in_alpha  it had none as its mask was read, but some of the mask's pixels are transparent
    """

    job: Job
    error: PConvError | None = None
    had_hole: bool = True
    hole_in_alpha: bool = False


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """How files are read, filled and written.

    at_once        batches in the engine at the same time; open it with as many streams
    dilate         pixels by which every hole grows, so that no seam of the removed thing stays
    fit_masks      scale a mask of another size to its image instead of refusing it
    jpeg_quality   1..100, where the output is JPEG
    max_pixels     larger images are refused before they are decoded
    """

    batch: int = 1
    at_once: int = 1
    mask_convention: MaskConvention = "hole-white"
    dilate: int = 0
    fit_masks: bool = False
    jpeg_quality: int = 95
    max_pixels: int = DEFAULT_MAX_PIXELS


@dataclass
class _Loaded:
    image: Image.Image
    prepared: Prepared


def fill_jobs(
    inpainter: Inpainter, jobs: Sequence[Job], options: FillOptions | None = None
) -> Generator[Outcome]:
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
            yield Outcome(
                job,
                had_hole=had_hole,
                hole_in_alpha=not had_hole and _partly_transparent(job, options),
            )


def _partly_transparent(job: Job, options: FillOptions) -> bool:
    """Whether the mask of a job has a hole where alpha says so: read once more, it is rare."""
    assert job.mask is not None
    try:
        hole = read_hole_mask(job.mask, "alpha", options.max_pixels)
    except HoleMaskError:
        return False
    return bool(hole.any()) and not bool(hole.all())


def _fill(
    inpainter: Inpainter, loaded: dict[Job, _Loaded]
) -> list[tuple[Job, Pixels | EngineError]]:
    prepared = [item.prepared for item in loaded.values()]
    try:
        return list(zip(loaded, inpainter.fill(prepared), strict=True))
    except EngineError:
        # One image too large for the memory must not take its neighbours along.
        return [(job, _fill_alone(inpainter, item)) for job, item in loaded.items()]


def _fill_alone(inpainter: Inpainter, item: _Loaded) -> Pixels | EngineError:
    try:
        return inpainter.fill([item.prepared])[0]
    except EngineError as error:
        return error


def _load(
    inpainter: Inpainter, job: Job, options: FillOptions, read_mask: Callable[..., Hole]
) -> _Loaded:
    if job.mask is None:
        raise HoleMaskError(f"{job.image} has no mask of the same name")
    image = read_image(job.image, options.max_pixels)
    hole = read_mask(job.mask, options.mask_convention, options.max_pixels)
    # Masks are drawn over the picture as viewers show it.
    height, width = displayed_size(image)
    if hole.shape != (height, width):
        if not options.fit_masks:
            raise HoleMaskError(
                f"{job.mask} is {hole.shape[1]}x{hole.shape[0]}, {job.image} is {width}x{height}; "
                "needed the same size. Scale masks to their images with --fit-masks"
            )
        hole = resized_hole(hole, (height, width))
    hole = dilated(hole, options.dilate)
    try:
        prepared = inpainter.prepare(image, hole_as_stored(hole, image))
    except HoleMaskError as error:
        raise HoleMaskError(f"{job.mask}: {error}; see --mask-convention") from error
    except InputError as error:
        raise type(error)(f"{job.image}: {error}") from error
    padded = prepared.padded_size
    if padded[0] * padded[1] > options.max_pixels and padded != (height, width):
        raise ImageError(
            f"{job.image} is {width}x{height} and padded for the network {padded[1]}x{padded[0]}, "
            f"more than {options.max_pixels / 1e6:.1f} megapixels; see --max-megapixels"
        )
    require_writable(job.output, like(image, prepared.pixels).mode)
    return _Loaded(image, prepared)
