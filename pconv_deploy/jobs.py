"""Which image goes with which mask, and where the result goes: no output lost, no two alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.image_files import IMAGE_SUFFIXES, OUTPUT_MODES

# An output named so is meant as a file, whether or not we write such files.
_FILE_SUFFIXES = IMAGE_SUFFIXES | OUTPUT_MODES.keys() | {".heic", ".heif", ".ppm", ".psd", ".svg"}


@dataclass(frozen=True)
class Job:
    """One image file, its mask file (None if there is none) and where the result goes."""

    image: Path
    mask: Path | None
    output: Path


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
    finder = _MaskFinder(images if images.is_dir() else images.parent, masks)
    if images.is_dir():
        if output.is_file():
            raise UsageError(f"{images} is a folder, so {output} must be one too; it is a file")
        jobs = _named(images, _images_in(images, masks, output, finder), finder, output, suffix)
    elif not images.exists():
        raise InputError(f"{images} does not exist")
    elif output.suffix.lower() in _FILE_SUFFIXES and not output.is_dir():
        found = finder.masks_of(images)
        if len(found) > 1:
            raise UsageError(f"{len(found)} masks fit {images}; give a folder for the outputs")
        jobs = [Job(images, found[0] if found else None, output)]
    else:
        jobs = _named(images.parent, [images], finder, output, suffix)
    _refuse_losses(jobs)
    return jobs


class _MaskFinder:
    """Finds the masks of an image below `root`; every folder is listed once."""

    def __init__(self, root: Path, masks: Path) -> None:
        self._root, self._masks = root, masks
        self._listings: dict[Path, _Listing] = {}

    def masks_of(self, image: Path) -> list[Path]:
        if self._masks.is_file():
            return [self._masks]
        folder = self._masks / image.relative_to(self._root).parent
        listing = self._listing(folder)
        # Beside its image only a mask that says so in its name is one.
        same = (
            listing.by_stem.get(image.stem, [])
            if folder.resolve() != image.parent.resolve()
            else []
        )
        return same[:1] or listing.by_marked_stem.get(image.stem, [])

    def _listing(self, folder: Path) -> "_Listing":
        if folder not in self._listings:
            listing = self._listings[folder] = _Listing({}, {})
            for path in sorted(folder.glob("*")):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    listing.by_stem.setdefault(path.stem, []).append(path)
                    marked, mark, _ = path.stem.rpartition("_mask")
                    if mark:
                        listing.by_marked_stem.setdefault(marked, []).append(path)
        return self._listings[folder]


class _Listing(NamedTuple):
    """Paths of a folder by stem, and by what stands before `_mask` in it."""

    by_stem: dict[str, list[Path]]
    by_marked_stem: dict[str, list[Path]]


def _images_in(images: Path, masks: Path, output: Path, finder: _MaskFinder) -> list[Path]:
    found = sorted(
        path
        for path in images.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(images).parts)
    )
    if masks.resolve() == images.resolve():
        used = {mask.resolve() for path in found for mask in finder.masks_of(path)}
        found = [path for path in found if path.resolve() not in used]
    # Masks and earlier outputs may lie below the images.
    aside = {output.resolve(), masks.resolve()} - {images.resolve()}
    found = [path for path in found if not aside & set(path.resolve().parents)]
    if not found:
        raise InputError(f"{images} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _named(
    root: Path, images: Sequence[Path], finder: _MaskFinder, output: Path, suffix: str | None
) -> list[Job]:
    pairs: list[tuple[Path, Path | None]] = []
    for image in images:
        pairs += [(image, mask) for mask in finder.masks_of(image)] or [(image, None)]
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
        if job.output.suffix.lower() not in OUTPUT_MODES:
            raise UsageError(f"cannot write {job.output}: needed one of {' '.join(OUTPUT_MODES)}")
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
