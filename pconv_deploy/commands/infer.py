"""Fill many files: decode, run the engine and encode in parallel.

Decoding and encoding run beside the engine. A picture is on disk whole before it counts as
done; a file that fails is reported and passed over.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from pconv_deploy.commands.jobs import Job
from pconv_deploy.commands.photo import NamedPhoto, PhotoOptions, prepare_photo, read_photo
from pconv_deploy.errors import EngineError, HoleMaskError, InputError, PConvError, UsageError
from pconv_deploy.images.arrays import Pixels, like
from pconv_deploy.images.files import read_mask_file
from pconv_deploy.images.hole_rule import MaskReading
from pconv_deploy.images.notes import Note
from pconv_deploy.images.writing import require_writable, save_image
from pconv_deploy.inpainter import Inpainter, Prepared

_BESIDE = 2  # batches beside those in the engine: one is read, one written


@dataclass(frozen=True)
class FileResult:
    """Result of a job; `error` is None if its output is on disk.

    had_hole  false: the output is the image as it was
    notes     what may not be meant
    """

    job: Job
    error: PConvError | None = None
    had_hole: bool = True
    notes: Sequence[Note] = ()


@dataclass(frozen=True, kw_only=True)
class FillOptions(PhotoOptions):
    """How files are filled, beside what is said of each photo.

    batch    images decoded and filled together
    at_once  batches in the engine at the same time; open it with as many streams
    """

    batch: int = 1
    at_once: int = 1


@dataclass
class _Loaded:
    image: Image.Image
    prepared: Prepared
    notes: Sequence[Note]


_Batch = list[tuple[FileResult, Future[None] | None]]  # results, and the writing of their files


def fill_jobs(
    inpainter: Inpainter, jobs: Sequence[Job], options: FillOptions | None = None
) -> Generator[FileResult]:
    """Run the jobs in batches; yield each result once its file is on disk.

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
) -> Generator[FileResult]:
    read_mask = lru_cache(maxsize=1)(read_mask_file)  # one mask for all is decoded once

    def load(job: Job) -> _Loaded:
        return _load(inpainter, job, options, read_mask)

    def save(job: Job, picture: Image.Image) -> Future[None]:
        return files.submit(save_image, job.output, picture, options.encoding)

    files = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pconv-files")
    engines = ThreadPoolExecutor(max_workers=options.at_once, thread_name_prefix="pconv-engine")
    batches: deque[Future[_Batch]] = deque()
    try:
        for start in range(0, len(jobs), options.batch):
            loading = {job: files.submit(load, job) for job in jobs[start : start + options.batch]}
            batches.append(engines.submit(_run_batch, inpainter, loading, save))
            if len(batches) == options.at_once + _BESIDE:
                yield from _written(batches.popleft().result())
        while batches:
            yield from _written(batches.popleft().result())
    finally:
        # What is being written is finished, what is waiting is dropped.
        engines.shutdown(wait=True, cancel_futures=True)
        files.shutdown(wait=True, cancel_futures=True)


def _run_batch(
    inpainter: Inpainter,
    loading: Mapping[Job, Future[_Loaded]],
    save: Callable[[Job, Image.Image], Future[None]],
) -> _Batch:
    """Wait for a batch's files, fill them, and begin to write what was filled."""
    loaded: dict[Job, _Loaded] = {}
    done: _Batch = []
    for job, future in loading.items():
        try:
            loaded[job] = future.result()
        except PConvError as error:
            done.append((FileResult(job, error), None))
    for (job, item), pixels in zip(loaded.items(), _fill(inpainter, loaded), strict=True):
        if isinstance(pixels, EngineError):
            done.append((FileResult(job, pixels), None))
        else:
            result = FileResult(job, had_hole=bool(item.prepared.hole.any()), notes=item.notes)
            done.append((result, save(job, like(item.image, pixels))))
    return done


def _written(batch: _Batch) -> Iterator[FileResult]:
    """Wait until the files of a batch are on disk."""
    for result, writing in batch:
        try:
            if writing:
                writing.result()
        except InputError as refused:
            yield FileResult(result.job, refused)
        else:
            yield result


def _fill(inpainter: Inpainter, loaded: Mapping[Job, _Loaded]) -> list[Pixels | EngineError]:
    try:
        return [*inpainter.fill([item.prepared for item in loaded.values()])]
    except EngineError:
        # One image too large for the memory must not take its neighbours along.
        return [_fill_alone(inpainter, job, item) for job, item in loaded.items()]


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
    image, notes = read_photo(job.image, options)
    mask = read_mask(
        job.mask, options.mask_rule, options.max_pixels, as_stored=options.masks_as_stored
    )
    prepared = prepare_photo(inpainter, NamedPhoto(job.image, job.mask, image), mask, options)
    require_writable(job.output, like(image, prepared.pixels).mode)
    return _Loaded(image, prepared, [*notes, *prepared.notes])
