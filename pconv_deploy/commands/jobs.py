"""Pair images with masks and assign output names, without collisions."""

import logging
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.images.file_types import READ_SUFFIXES, UNREAD_SUFFIXES
from pconv_deploy.images.listing import Unread, list_pictures, same_name
from pconv_deploy.images.pairing import MaskFolder, MasksOfPhoto
from pconv_deploy.images.writing import OUTPUT_MODES

_LOG = logging.getLogger(__name__)
# An output named so is meant as a file, whether or not we write such files.
_FILE_SUFFIXES = READ_SUFFIXES | UNREAD_SUFFIXES | OUTPUT_MODES.keys()


@dataclass(frozen=True)
class Job:
    """One image file, its mask file and where the result goes.

    problem  why it cannot be done, found while planning; there may be no mask then
    """

    image: Path
    mask: Path | None
    output: Path
    problem: str | None = None


@dataclass(frozen=True)
class _Places:
    """Paths given by the user."""

    images: Path
    masks: Path
    output: Path
    exclude: Sequence[str] = ()

    @property
    def root(self) -> Path:
        """Of the images."""
        return self.images if self.images.is_dir() else self.images.parent

    @property
    def writes_one_file(self) -> bool:
        named_so = self.output.suffix.lower() in _FILE_SUFFIXES and not self.output.is_dir()
        return self.images.is_file() and named_so


def plan_jobs(
    images: Path,
    masks: Path,
    output: Path,
    suffix: str | None = ".png",
    *,
    exclude: Sequence[str] = (),
) -> list[Job]:
    """Pair images with masks and assign distinct output names. The rules: docs/files.md.

    A picture that cannot be read, and an image without a mask or with several that could be
    meant, is a job with a problem. What was left out on purpose is logged as a warning.

    Args:
        images: a file, or a folder read with its subfolders.
        masks: a file, for every image; or a folder, where the mask of `a/b.jpg` is `a/b.*`,
            `a/b.jpg.*` or each of `a/b_mask*.*` (every such mask gives an output of its own).
        output: a folder; or, for a single image, a file.
        suffix: of the outputs, if `output` is no file; None keeps each image's own.
        exclude: patterns of names or paths to leave out of both folders.

    Raises:
        InputError: something does not exist, or a folder holds no images.
        UsageError: an output would overwrite an input or become one, or is of a kind we do not
            write.
    """
    for path in (images, masks):
        if not path.exists():
            raise InputError(f"{path} does not exist")
    if images.is_dir() and output.is_file():
        raise UsageError(f"{images} is a folder, so {output} must be one too; it is a file")
    places = _Places(images, masks, output, exclude)
    found, unread = _images(places)
    pairings = _pairings(places, [*found, *(one.path for one in unread)])[: len(found)]
    if places.writes_one_file:
        (pairing,) = pairings
        if len(pairing.masks) > 1:
            raise UsageError(
                f"{len(pairing.masks)} masks fit {images}; give a folder for the outputs"
            )
        jobs = [Job(images, next(iter(pairing.masks), None), output, pairing.problem)]
    else:
        jobs = _named(places, dict(zip(found, pairings, strict=True)), suffix)
    _refuse_losses(jobs)
    _refuse_outputs_among_inputs(places, jobs)
    _warn_of_other_pictures(places, jobs)
    return jobs + [
        Job(one.path, None, _output_of_unread(places, one), problem=one.why) for one in unread
    ]


def _images(places: _Places) -> tuple[list[Path], list[Unread]]:
    """Find the images to fill; masks and earlier outputs may be in the same folder tree."""
    if places.images.is_file():
        return [places.images], []
    listed = list_pictures(
        places.images, aside=(places.masks, places.output), exclude=places.exclude
    )
    found = listed.paths
    if places.masks.is_file():
        mask = places.masks.resolve()
        found = [path for path in found if path.resolve() != mask]
    elif places.masks.resolve() == places.images.resolve():
        folder = MaskFolder(listed, places.images)
        found = [path for path in found if not folder.is_marked_mask(path)]
    listed.require_some(found)
    listed.warn(of_unread=False)  # each of these becomes a job
    return found, listed.unread


def _pairings(places: _Places, found: Sequence[Path]) -> list[MasksOfPhoto]:
    if places.masks.is_file():
        return [MasksOfPhoto((places.masks,))] * len(found)
    listed = list_pictures(places.masks, aside=(places.root, places.output), exclude=places.exclude)
    folder = MaskFolder(listed, places.root)
    pairings = folder.pair(found)
    folder.warn_of_letters()
    if places.images.is_dir():
        folder.warn_of_others()
        if places.masks.resolve() != places.images.resolve():
            listed.warn()
    return pairings


def _named(places: _Places, pairings: dict[Path, MasksOfPhoto], suffix: str | None) -> list[Job]:
    triples = [
        (image, mask, mask.stem if mask and len(pairing.masks) > 1 else image.stem)
        for image, pairing in pairings.items()
        for mask in pairing.masks or (None,)
    ]
    # By what a file system that ignores case or Unicode forms would call the same.
    uses = Counter((image.parent, same_name(stem)) for image, _, stem in triples)
    jobs = []
    for image, mask, stem in triples:
        folder = places.output / image.relative_to(places.root).parent
        unique = stem if uses[image.parent, same_name(stem)] == 1 else f"{stem}{image.suffix}"
        name = f"{unique}{suffix or image.suffix}"
        jobs.append(Job(image, mask, folder / name, pairings[image].problem))
    return jobs


def _output_of_unread(places: _Places, one: Unread) -> Path:
    """A reserved name for an unreadable image, which no other output gets."""
    return places.output / one.path.relative_to(places.root).with_name(f"{one.path.name}.png")


def _refuse_losses(jobs: Sequence[Job]) -> None:
    inputs = {p.resolve() for job in jobs for p in (job.image, job.mask) if p is not None}
    by_output: dict[str, list[Job]] = {}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(f"{job.output} is an input; choose another output folder")
        if job.output.suffix.lower() not in OUTPUT_MODES:
            raise UsageError(f"cannot write {job.output}: needed one of {' '.join(OUTPUT_MODES)}")
        by_output.setdefault(same_name(str(job.output)), []).append(job)
    for same in by_output.values():
        if len(same) > 1:
            names = ", ".join(str(job.image) for job in same)
            raise UsageError(
                f"{len(same)} images would be written to {same[0].output} ({names}); rename them"
            )


def _refuse_outputs_among_inputs(places: _Places, jobs: Sequence[Job]) -> None:
    """Refuse outputs that the next run would take for photos or masks."""
    if places.writes_one_file:
        return
    output = places.output.resolve()
    parents = {job.output.parent: job for job in jobs}
    for folder, of in ((places.images, "photos"), (places.masks, "masks")):
        inputs = folder.resolve()
        # Outputs strictly below the inputs are left out when these are listed.
        if folder.is_file() or inputs in output.parents:
            continue
        for parent, job in parents.items():
            if parent.resolve().is_relative_to(inputs):
                raise UsageError(
                    f"{job.output} would lie among the {of} and be taken for one of them by the "
                    f"next run; choose another output folder, such as {folder / 'filled'}"
                )


def _warn_of_other_pictures(places: _Places, jobs: Sequence[Job]) -> None:
    """Say if the folder of the outputs, left out of the photos, holds other pictures."""
    if places.images.resolve() not in places.output.resolve().parents:
        return
    if not (places.images.is_dir() and places.output.is_dir()):
        return
    ours = {job.output for job in jobs}
    others = [path for path in list_pictures(places.output).paths if path not in ours]
    if others:
        _LOG.warning(
            "left out: %s and %d more in the folder of the outputs", others[0], len(others) - 1
        )


def in_shard(job: Job, output: Path, index: int, count: int) -> bool:
    """Say whether a job is in part `index` (0 to `count` - 1) of the work.

    By the name of its output below the folder `output`, so that every machine decides alike,
    whatever files are added meanwhile and wherever the folders are mounted.
    """
    name = job.output.relative_to(output).as_posix()
    return zlib.crc32(os.fsencode(name)) % count == index


def settle_existing(jobs: Sequence[Job], *, resume: bool, overwrite: bool) -> list[bool]:
    """Return for each job whether its output exists and is kept.

    Raises:
        UsageError: outputs exist, and neither `resume` nor `overwrite` says what to do.
    """
    exist = [job.problem is None and job.output.exists() for job in jobs]
    if any(exist) and not (resume or overwrite):
        first = jobs[exist.index(True)].output
        raise UsageError(
            f"{sum(exist)} of {len(jobs)} outputs exist already ({first}); "
            "pass --resume to keep them and do the rest, or --overwrite to do all again"
        )
    return [there and resume for there in exist]
