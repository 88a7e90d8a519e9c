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
    finder = _MaskFinder(images if images.is_dir() else images.parent, masks)
    if images.is_dir():
        if output.is_file():
            raise UsageError(f"{images} is a folder, so {output} must be one too; it is a file")
        jobs = _named(images, _images_in(images, masks, finder), finder, output, suffix)
    elif not images.exists():
        raise InputError(f"{images} does not exist")
    elif output.suffix.lower() in OUTPUT_SUFFIXES and not output.is_dir():
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
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}

    def masks_of(self, image: Path) -> list[Path]:
        if self._masks.is_file():
            return [self._masks]
        folder = self._masks / image.relative_to(self._root).parent
        by_stem = self._listing(folder)
        # Beside its image only a mask that says so in its name is one.
        same = by_stem.get(image.stem, []) if folder != image.parent else []
        return same[:1] or by_stem.get(f"{image.stem}_mask", [])

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        """Paths by stem; `a_mask`, `a_mask001`, `a_mask-left` and the like under `a_mask`."""
        if folder not in self._by_stem:
            by_stem = self._by_stem[folder] = {}
            for path in sorted(folder.glob("*")):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    base, mark, _ = path.stem.rpartition("_mask")
                    by_stem.setdefault(base + mark if mark else path.stem, []).append(path)
        return self._by_stem[folder]


def _images_in(images: Path, masks: Path, finder: _MaskFinder) -> list[Path]:
    found = sorted(
        path
        for path in images.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(images).parts)
    )
    if masks == images:
        used = {mask for path in found for mask in finder.masks_of(path)}
        found = [path for path in found if path not in used]
    elif masks.is_dir():  # perhaps below the images
        found = [path for path in found if masks not in path.parents]
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
