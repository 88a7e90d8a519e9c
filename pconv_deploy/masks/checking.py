"""Check a folder of hole masks, for `pconv-deploy masks check`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pconv_deploy.errors import InputError
from pconv_deploy.images.files import read_mask_file
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskConvention, MaskRule
from pconv_deploy.images.listing import list_pictures
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.masks.reading import (
    HoleMaskFile,
    classified,
    in_threads,
    inverted,
    polarity_complaint,
)


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Number of masks of one of the paper's classes."""

    area: tuple[float, float]
    border: int
    no_border: int


@dataclass(frozen=True, kw_only=True)
class MaskSetReport:
    """Statistics of a folder of masks.

    pictures        number of files
    unreadable      an error for each file that cannot be used
    sizes           "512x512" (height x width) to the number of masks
    grey            share of all pixels that are hole, though neither black nor white
    grey_masks      masks with any such pixel
    low_labels      masks with areas of low values that are known: labels, perhaps
    empty, full     masks with no pixel of hole, with nothing but hole
    below           masks with some hole, at most 1 %
    above           masks with more than 60 % hole, not full
    classes         the others
    inverted        the masks make sense the other way round only
    complaint       why no mask can be used; None if some can
    """

    pictures: int
    unreadable: tuple[str, ...]
    sizes: dict[str, int]
    grey: float
    grey_masks: int
    low_labels: int
    empty: int
    full: int
    below: int
    above: int
    classes: tuple[ClassCount, ...]
    inverted: bool
    complaint: str | None


@dataclass(frozen=True)
class _Checked:
    mask: HoleMaskFile
    size: tuple[int, int]
    grey: float
    low_labels: int


def check_mask_set(folder: Path, rule: MaskRule = DEFAULT_RULE) -> MaskSetReport:
    """Read every mask of a folder and its subfolders; a manifest is ignored.

    Raises:
        InputError: the folder does not exist or holds no pictures.
    """
    listed = list_pictures(folder)
    listed.require_some()
    listed.warn(of_unread=False)
    found = in_threads(partial(_checked, rule=rule), listed.paths)
    checked = [one for one in found if isinstance(one, _Checked)]
    unreadable = tuple(one for one in found if isinstance(one, str))
    unreadable += tuple(one.why for one in listed.unread)
    shares = [one.mask.share or 0.0 for one in checked]
    sizes = Counter(f"{one.size[0]}x{one.size[1]}" for one in checked)
    pixels = [one.size[0] * one.size[1] for one in checked]
    return MaskSetReport(
        pictures=len(checked) + len(unreadable),
        unreadable=unreadable,
        sizes=dict(sizes.most_common()),
        grey=float(np.average([one.grey for one in checked], weights=pixels)) if checked else 0.0,
        grey_masks=sum(one.grey > 0 for one in checked),
        low_labels=sum(one.low_labels > 0 for one in checked),
        empty=sum(share == 0 for share in shares),
        full=sum(share == 1 for share in shares),
        below=sum(0 < share <= AREA_BUCKETS[0][0] for share in shares),
        above=sum(AREA_BUCKETS[-1][1] < share < 1 for share in shares),
        classes=_class_counts([one.mask for one in checked]),
        inverted=inverted(shares),
        complaint=_complaint(folder, shares, unreadable, rule.convention),
    )


def _checked(path: Path, rule: MaskRule) -> _Checked | str:
    try:
        mask = read_mask_file(path, rule)
    except InputError as error:
        return str(error)
    size = mask.hole.shape[0], mask.hole.shape[1]
    return _Checked(classified(path, mask.hole), size, mask.grey_share, mask.low_labels)


def _class_counts(masks: Sequence[HoleMaskFile]) -> tuple[ClassCount, ...]:
    counts = Counter((mask.bucket, mask.border) for mask in masks)
    return tuple(
        ClassCount(area=area, border=counts[area, True], no_border=counts[area, False])
        for area in AREA_BUCKETS
    )


def _complaint(
    folder: Path, shares: Sequence[float], unreadable: Sequence[str], convention: MaskConvention
) -> str | None:
    if not shares:
        return f"none of the {len(unreadable)} masks in {folder} can be read: {unreadable[0]}"
    if complaint := polarity_complaint(shares, convention):
        return f"{folder}: {complaint}"
    low, high = AREA_BUCKETS[0][0], AREA_BUCKETS[-1][1]
    if not any(low < share <= high for share in shares):
        return f"no mask in {folder} covers more than {low:.0%} and at most {high:.0%} of its image"
    return None
