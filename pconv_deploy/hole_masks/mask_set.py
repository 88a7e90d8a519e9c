"""Sets of hole masks, so many of each of the paper's classes, drawn in parallel."""

import multiprocessing
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pconv_deploy.errors import OutputError, UsageError
from pconv_deploy.files import atomic_folder, writing
from pconv_deploy.hole_masks.drawing import drawn_hole
from pconv_deploy.hole_masks.manifest import (
    MANIFEST_NAME,
    MaskEntry,
    MaskSetManifest,
    is_mask_set,
    manifest_bytes,
)
from pconv_deploy.holes import AREA_BUCKETS

# In the order of the files: each bucket with, then without holes near the border.
CLASSES = tuple((bucket, border) for bucket in AREA_BUCKETS for border in (True, False))
_MOST_PER_CLASS = 4000  # so that the manifest stays below what we read
_SIDES = (32, 4096)
_CHUNK = 8


@dataclass(frozen=True, kw_only=True)
class MaskSetOptions:
    """What a set is made of; the same options give the same files, however many workers.

    per_class   masks of each of the twelve CLASSES
    """

    height: int = 512
    width: int = 512
    per_class: int = 10
    seed: int = 0


def make_mask_set(
    output: Path,
    options: MaskSetOptions | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> MaskSetManifest:
    """Draw a set: numbered PNGs of one bit, white = hole, and a manifest; whole or not at all.

    Args:
        output: folder to be made.
        options: see MaskSetOptions.
        workers: processes.
        overwrite: replace an earlier set.
        progress: told how many masks are done, of how many.

    Raises:
        UsageError: sizes or numbers out of range, or something is there already.
        OutputError: the folder cannot be written.
    """
    options = options or MaskSetOptions()
    _require_sensible(options)
    total = options.per_class * len(CLASSES)
    entries: list[MaskEntry] = []
    with atomic_folder(output, overwrite=overwrite, replaceable=is_mask_set) as folder:
        make = partial(_write_mask, folder, options)
        with closing(_each(make, total, workers)) as made:
            for entry in made:
                entries.append(entry)
                progress(len(entries), total)
        manifest = MaskSetManifest(
            height=options.height,
            width=options.width,
            per_class=options.per_class,
            seed=options.seed,
            source={"kind": "strokes"},
            files=tuple(entries),
        )
        with writing(output):
            (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return manifest


def _require_sensible(options: MaskSetOptions) -> None:
    least, most = _SIDES
    if not all(least <= side <= most for side in (options.height, options.width)):
        raise UsageError(
            f"found a size of {options.height}x{options.width}; needed sides of {least} to {most}"
        )
    if not 1 <= options.per_class <= _MOST_PER_CLASS:
        raise UsageError(f"found {options.per_class} a class; needed 1 to {_MOST_PER_CLASS}")
    if options.seed < 0:
        raise UsageError(f"found a seed of {options.seed}; needed 0 or more")


def _each(make: Callable[[int], MaskEntry], total: int, workers: int) -> Generator[MaskEntry]:
    if workers == 1:
        yield from map(make, range(total))
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent
    )
    try:
        yield from pool.map(make, range(total), chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise OutputError("a worker process was ended from outside, by lack of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_mask(folder: Path, options: MaskSetOptions, at: int) -> MaskEntry:
    kind, number = divmod(at, options.per_class)
    bucket, border = CLASSES[kind]
    rng = np.random.default_rng([options.seed, kind, number])
    hole = drawn_hole(rng, options.height, options.width, bucket, border=border)
    path = folder / f"{at:05}.png"
    with writing(path):
        Image.fromarray(hole).save(path)
    return MaskEntry(path.name, bucket, border, float(np.count_nonzero(hole)) / hole.size)
