"""Which image goes with which mask, and where the result goes: no output lost, no two alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pconv_deploy.errors import InputError, UsageError

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
