"""Photos and holes an int8 engine learns its ranges from, and those kept back to judge it."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import InputError
from pconv_deploy.images.arrays import Bytes, resized_hole
from pconv_deploy.images.files import read_hole_mask, read_rgb
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskRule
from pconv_deploy.masks.irregular import AREA_BUCKETS, irregular_hole
from pconv_deploy.masks.reading import picture_paths, read_mask_set
from pconv_deploy.parity import Arrays, ParityInput, graph_inputs

# A quarter is kept back to judge by. With fewer, one odd photo would decide the ranges.
MIN_PHOTOS, MAX_PHOTOS = 12, 160
_HELD_BACK = 4  # every fourth
_SIDE = 256  # pixels, where the graph leaves the size open
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class CalibrationFiles:
    """Folders. Without holes, those of the paper's six areas are drawn."""

    photos: Path
    holes: Path | None = None
    mask_rule: MaskRule = DEFAULT_RULE


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of the graph, single images or its fixed batch.

    unusable  of each photo that was passed over, its name and why
    """

    calibrate: tuple[Arrays, ...]
    held_back: tuple[Arrays, ...]
    unusable: tuple[str, ...]


def require_folders(files: CalibrationFiles) -> None:
    """Look for both folders, before anything else takes time.

    Raises:
        InputError: one is missing, or is no folder.
    """
    wanted = (
        (files.photos, "--calibration-photos", "photos"),
        (files.holes, "--calibration-holes", "masks"),
    )
    for folder, option, of in wanted:
        if folder is not None and not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise InputError(f"{folder} {what}; {option} needs a folder of {of}")


def read_calibration(files: CalibrationFiles, contract: GraphContract) -> CalibrationSet:
    """Read the photos, each with a hole, in the size the graph takes.

    Photos that cannot be read or are less than half that size are passed over. A photo is scaled
    until it covers the size, and its middle is taken; a mask is stretched.

    Raises:
        InputError: fewer than twelve photos are left, or a folder is missing or holds none.
        HoleMaskError: masks that cannot be read, or all of them unusable.
    """
    require_folders(files)
    rng = np.random.default_rng(_SEED)
    side = contract.size_multiple * math.ceil(_SIDE / contract.size_multiple)
    size = contract.size or (side, side)
    listed = read_mask_set(files.holes, files.mask_rule) if files.holes else ()
    masks = [mask.path for mask in listed]
    paths = picture_paths(files.photos)
    found = [paths[i] for i in rng.permutation(len(paths))]
    cases: list[ParityInput] = []
    failures: list[str] = []
    for path in found:
        if len(cases) == MAX_PHOTOS:
            break
        try:
            image = _fitted(path, size)
        except InputError as error:
            failures.append(str(error))
            continue
        mask = masks[len(cases) % len(masks)] if masks else None
        hole = _hole(mask, files.mask_rule, size) if mask else _drawn(len(cases), rng, size)
        cases.append(ParityInput(path.name, image, hole))
    if len(cases) < MIN_PHOTOS:
        seen = f"; {len(failures)} passed over, such as: {failures[0]}" if failures else ""
        raise InputError(
            f"{files.photos} has {len(cases)} usable photos; "
            f"calibration needs at least {MIN_PHOTOS}{seen}"
        )
    inputs = [graph_inputs([case], contract) for case in cases]
    return CalibrationSet(
        calibrate=tuple(one for i, one in enumerate(inputs) if i % _HELD_BACK),
        held_back=tuple(inputs[::_HELD_BACK]),
        unusable=tuple(failures),
    )


def _fitted(path: Path, size: tuple[int, int]) -> Bytes:
    photo = read_rgb(path)
    height, width = size
    if 2 * photo.height < height or 2 * photo.width < width:
        raise InputError(
            f"{path} is {photo.width}x{photo.height}; needed at least half of {width}x{height}"
        )
    fitted: Bytes = np.asarray(ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS))
    return fitted


def _hole(mask: Path, rule: MaskRule, size: tuple[int, int]) -> Bytes:
    hole = resized_hole(read_hole_mask(mask, rule), size)
    return hole.astype(np.uint8) * np.uint8(255)


def _drawn(number: int, rng: np.random.Generator, size: tuple[int, int]) -> Bytes:
    return irregular_hole(rng, *size, AREA_BUCKETS[number % len(AREA_BUCKETS)])
