"""Sets of hole masks as folders: ours, NVIDIA's released test set, or any folder of pictures.

NVIDIA's set (https://nv-adlr.github.io/publication/partialconv-inpainting) is 12,000 pictures,
00000.png to 11999.png, 512x512, white = hole, in the folder its archive unpacks to. It does not
state the class of a mask, so that is found from the pixels.
"""

import os
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from pconv_deploy.errors import HoleMaskError, InputError
from pconv_deploy.files import read_json_bytes
from pconv_deploy.images.arrays import Hole
from pconv_deploy.images.files import read_hole_mask
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskConvention, MaskRule
from pconv_deploy.images.listing import list_pictures
from pconv_deploy.masks.irregular import area_bucket, touches_border

Result = TypeVar("Result")

MANIFEST_NAME = "holes.json"
_FORMAT = 1
# Above this share of holes a set is taken for inverted, if it has no mask of a class at all.
_MOSTLY_HOLE = 0.5


@dataclass(frozen=True)
class HoleMaskFile:
    """One mask of a set.

    bucket   of holes.AREA_BUCKETS; None outside of all, or if the set was not classified
    border   whether the hole comes near an edge (holes.touches_border); None if not classified
    share    of the image that is hole; None if not classified
    """

    path: Path
    bucket: tuple[float, float] | None = None
    border: bool | None = None
    share: float | None = None


class MaskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mask file of a manifest; see HoleMaskFile."""

    name: str
    bucket: tuple[float, float]
    border: bool
    share: float

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise ValueError(f"{self.name!r} is no file name")


class MaskSetManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Manifest of a whole set: white is hole; `source` says how to make it again."""

    format: int = _FORMAT
    height: int
    width: int
    per_class: int
    seed: int
    source: dict[str, Any]
    files: tuple[MaskEntry, ...]


def manifest_bytes(manifest: MaskSetManifest) -> bytes:
    """Encode a manifest as JSON, one line per mask."""
    return msgspec.json.encode(manifest).replace(b'{"name"', b'\n{"name"') + b"\n"


def read_manifest(folder: Path) -> MaskSetManifest:
    """Read the manifest of a set made by `masks make`.

    Raises:
        InputError: missing, not ours or damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(read_json_bytes(path), type=MaskSetManifest)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise InputError(f"{path} is not ours or damaged: {error}") from error
    if manifest.format != _FORMAT:
        raise InputError(
            f"{path} has format {manifest.format}; this pconv-deploy reads format {_FORMAT}"
        )
    if not manifest.files:
        raise InputError(f"{path} lists no masks")
    return manifest


def read_mask_set(
    folder: Path, rule: MaskRule = DEFAULT_RULE, *, classify: bool = True
) -> tuple[HoleMaskFile, ...]:
    """List the masks of a folder and its subfolders, in the order of their numbers.

    Args:
        folder: made by `pconv-deploy masks make`, NVIDIA's, or any other with pictures.
        rule: which pixels of a file are hole.
        classify: find the class of each mask. It takes milliseconds a mask, and none at all
            where a manifest of ours has them.

    Raises:
        InputError: the folder does not exist or holds no pictures, or files of ours are gone.
        HoleMaskError: masks cannot be read, all are empty, all are full, or they look inverted.
    """
    if rule.convention == "hole-white" and (folder / MANIFEST_NAME).is_file():
        return _of_manifest(folder)
    paths = picture_paths(folder)
    if not classify:
        return tuple(map(HoleMaskFile, paths))
    found = in_threads(partial(_classified, rule=rule), paths)
    masks = tuple(mask for mask in found if isinstance(mask, HoleMaskFile))
    failures = [failure for failure in found if isinstance(failure, InputError)]
    if failures:
        raise HoleMaskError(
            f"{len(failures)} of {len(paths)} masks in {folder} cannot be read: {failures[0]}"
        )
    if complaint := polarity_complaint([mask.share or 0.0 for mask in masks], rule.convention):
        raise HoleMaskError(f"{folder}: {complaint}")
    return masks


def picture_paths(folder: Path, aside: Collection[Path] = ()) -> list[Path]:
    """Pictures of a folder and the folders in it, numbers in their names in numeric order.

    Skipped files are logged as a warning; folders in `aside` are left out.

    Raises:
        InputError: the folder is none, or there are no pictures.
    """
    listed = list_pictures(folder, aside=aside)
    listed.require_some()
    listed.warn()
    return sorted(listed.paths, key=by_numbers)


def polarity_complaint(
    shares: Sequence[float], convention: MaskConvention = "hole-white"
) -> str | None:
    """Explain why no mask of a set can be used, from the shares that are hole."""
    values = np.asarray(shares)
    if not values.any():
        return f"all {len(values)} masks are empty: no pixel in them is hole"
    if (values == 1).all():
        return f"all {len(values)} masks are full: no pixel in them is known"
    if inverted(shares):
        if convention == "hole-white":
            return (
                "these masks look inverted, most of each is hole (NVIDIA's training set is stored "
                "so): use --mask-convention hole-black"
            )
        return (
            f"read as {convention} these masks look inverted, most of each is hole: use another "
            "--mask-convention"
        )
    return None


def inverted(shares: Sequence[float]) -> bool:
    """Whether masks look inverted: holes are usually the minority."""
    values = np.asarray(shares)
    some = values[(values > 0) & (values < 1)]
    return bool(len(some) and (some > _MOSTLY_HOLE).mean() > 0.5 and np.median(some) > 0.6)


def in_threads(work: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result]:
    """Results in the order of the paths; decoders leave Python's lock to others."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, paths))


def classified(path: Path, hole: Hole) -> HoleMaskFile:
    """The class of a hole, as a mask file."""
    share = float(np.count_nonzero(hole)) / hole.size
    return HoleMaskFile(path, area_bucket(hole), touches_border(hole), share)


def _classified(path: Path, rule: MaskRule) -> HoleMaskFile | InputError:
    try:
        return classified(path, read_hole_mask(path, rule))
    except InputError as error:
        return error


def _of_manifest(folder: Path) -> tuple[HoleMaskFile, ...]:
    masks = tuple(
        HoleMaskFile(folder / entry.name, entry.bucket, entry.border, entry.share)
        for entry in read_manifest(folder).files
    )
    present = {path.name for path in folder.iterdir()}
    gone = [mask.path.name for mask in masks if mask.path.name not in present]
    if gone:
        raise InputError(
            f"{len(gone)} of the {len(masks)} masks that {folder / MANIFEST_NAME} lists are gone, "
            f"{gone[0]} for one"
        )
    return masks


def by_numbers(path: Path) -> tuple[str, list[tuple[int, str]], str]:
    """Sort frames 2 and 10 in this order; by the spelling where numbers do not decide."""
    parts = re.findall(r"\d+|\D+", path.name)
    return (
        str(path.parent),
        [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts],
        path.name,
    )
