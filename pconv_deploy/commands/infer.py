"""Fill many files: decode, run the engine and encode in parallel.

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

from pconv_deploy.commands.jobs import Job
from pconv_deploy.commands.photo import NamedPhoto, PhotoOptions, prepare_photo, read_photo
from pconv_deploy.errors import EngineError, HoleMaskError, InputError, PConvError, UsageError
from pconv_deploy.images.arrays import Pixels, like
from pconv_deploy.images.files import read_mask_file
from pconv_deploy.images.hole_rule import MaskReading
from pconv_deploy.images.notes import Note
from pconv_deploy.images.writing import require_writable, save_image
from pconv_deploy.inpainter import Inpainter, Prepared


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
) -> tuple[dict[Job, _Loaded], list[FileResult]]:
    """Wait for a batch's files; report those that cannot be used."""
    loaded: dict[Job, _Loaded] = {}
    failed: list[FileResult] = []
    for job, future in zip(jobs, loading, strict=True):
        try:
            loaded[job] = future.result()
        except PConvError as error:
            failed.append(FileResult(job, error=error))
    return loaded, failed


def _finish_batch(
    running: _Running, pool: ThreadPoolExecutor, options: FillOptions
) -> Iterator[FileResult]:
    loaded = running.loaded
    writing: list[tuple[Job, Future[None]]] = []
    for job, pixels in running.filled.result():
        if isinstance(pixels, EngineError):
            yield FileResult(job, error=pixels)
        else:
            picture = like(loaded[job].image, pixels)
            writing.append((job, pool.submit(save_image, job.output, picture, options.encoding)))
    for job, written in writing:
        try:
            written.result()
        except InputError as error:
            yield FileResult(job, error=error)
        else:
            had_hole = bool(loaded[job].prepared.hole.any())
            yield FileResult(job, had_hole=had_hole, notes=loaded[job].notes)


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
    image, notes = read_photo(job.image, options)
    mask = read_mask(
        job.mask, options.mask_rule, options.max_pixels, as_stored=options.masks_as_stored
    )
    prepared = prepare_photo(inpainter, NamedPhoto(job.image, job.mask, image), mask, options)
    require_writable(job.output, like(image, prepared.pixels).mode)
    return _Loaded(image, prepared, [*notes, *prepared.notes])
