"""Make sets of hole masks with a given number per class, in parallel."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.files import atomic_folder, scratch_folder, writing
from pconv_deploy.images.arrays import Hole
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.masks.occlusion import fitted_hole
from pconv_deploy.masks.reading import (
    MANIFEST_NAME,
    MaskEntry,
    MaskSetManifest,
    manifest_bytes,
)
from pconv_deploy.masks.video import (
    VideoSource,
    in_processes,
    planned_pairs,
    store_raw_holes,
    stored_raw_holes,
)

# In the order of the files: each bucket with, then without holes near the border.
CLASSES = tuple((bucket, border) for bucket in AREA_BUCKETS for border in (True, False))
_MOST_PER_CLASS = 4000  # so that the manifest stays below what we read
_SIDES = (32, 4096)


@dataclass(frozen=True, kw_only=True)
class MaskSetOptions:
    """Options of a set; equal options give equal files, whatever the number of workers.

    per_class   masks of each of the twelve CLASSES
    video       where occlusions are taken from; None draws the holes
    """

    height: int = 512
    width: int = 512
    per_class: int = 10
    seed: int = 0
    video: VideoSource | None = None


def make_mask_set(
    output: Path,
    options: MaskSetOptions | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> MaskSetManifest:
    """Write a set atomically: numbered 1-bit PNGs, white = hole, and a manifest.

    Args:
        output: folder to be made.
        options: see MaskSetOptions.
        workers: processes.
        overwrite: replace an earlier set.
        progress: called with the number of masks and pairs of frames done, and the total.

    Raises:
        UsageError: sizes or numbers out of range, or something is there already.
        InputError: a video cannot be read, nothing moves in it, or not enough for some class.
        OutputError: the folder cannot be written.
    """
    options = options or MaskSetOptions()
    _require_sensible(options)
    with (
        atomic_folder(
            output, overwrite=overwrite, replaceable=lambda old: (old / MANIFEST_NAME).is_file()
        ) as folder,
        scratch_folder() if options.video else nullcontext() as aside,
    ):
        numbers = range(options.per_class * len(CLASSES))
        facts: dict[str, Any] = {"kind": "strokes"}
        raw, pairs = None, 0
        if options.video and aside:
            raw = aside / "raw.npz"
            facts = _store_occlusions(raw, options, workers, progress)
            pairs = facts["frame_pairs"]
        entries: list[MaskEntry] = []
        work = partial(_write_mask, folder, options, raw)
        with closing(in_processes(work, numbers, workers, chunk=8)) as made:
            for entry in made:
                entries.append(entry)
                progress(pairs + len(entries), pairs + len(numbers))
        manifest = MaskSetManifest(
            height=options.height,
            width=options.width,
            per_class=options.per_class,
            seed=options.seed,
            source=facts,
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


def _store_occlusions(
    path: Path, options: MaskSetOptions, workers: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Store the occlusions of the videos; return what the manifest says of them."""
    source, masks = options.video, options.per_class * len(CLASSES)
    assert source is not None
    pairs = planned_pairs(source, masks)
    count = store_raw_holes(
        path,
        source,
        pairs,
        min(options.height, options.width),
        workers=workers,
        progress=lambda done: progress(done, len(pairs) + masks),
    )
    return {
        "kind": "occlusions",
        "videos": [video.name for video in source.videos],
        "flow": source.flow,
        "frame_step": source.frame_step,
        "frame_pairs": len(pairs),
        "raw_holes": count,
    }


def _write_mask(folder: Path, options: MaskSetOptions, raw: Path | None, at: int) -> MaskEntry:
    kind, number = divmod(at, options.per_class)
    bucket, border = CLASSES[kind]
    rng = np.random.default_rng([options.seed, kind, number])
    if raw:
        hole = _occluded(rng, options, stored_raw_holes(raw), kind)
    else:
        hole = drawn_hole(rng, options.height, options.width, bucket, border=border)
    path = folder / f"{at:05}.png"
    with writing(path):
        Image.fromarray(hole).save(path)
    return MaskEntry(path.name, bucket, border, float(np.count_nonzero(hole)) / hole.size)


def _occluded(
    rng: np.random.Generator, options: MaskSetOptions, raw: Sequence[Hole], kind: int
) -> Hole:
    bucket, border = CLASSES[kind]
    hole = fitted_hole(rng, raw, (options.height, options.width), bucket, border=border)
    if hole is None:
        raise InputError(
            f"the {len(raw)} occlusions found give no holes of {bucket[0]:.0%} to {bucket[1]:.0%} "
            f"{'near' if border else 'far from'} the border: give further videos, or another "
            "--frame-step"
        )
    return hole
