"""Options of all commands that read hole masks: which of their pixels are the hole."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pconv_deploy.hole_rule import MaskRule


class Convention(StrEnum):
    """Which pixels of a mask file are the hole."""

    HOLE_WHITE = "hole-white"
    HOLE_BLACK = "hole-black"
    ALPHA = "alpha"


MaskConvention = Annotated[
    Convention,
    typer.Option(
        "--mask-convention",
        metavar="WHICH",
        help="Mask pixels that are the hole: hole-white, hole-black or alpha, the transparent "
        "ones; grey ones always.",
    ),
]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        "--mask-threshold",
        min=1,
        max=255,
        help="How white, black or transparent a pixel of the hole is at least; 1 takes every "
        "label of a label map. Default: 16, and refuse a mask that holds only lower values; "
        "docs/embedding.md has the rule.",
        show_default=False,
    ),
]


def mask_rule(convention: Convention, threshold: int | None) -> "MaskRule":
    """Make the rule that the options ask for."""
    from pconv_deploy.hole_rule import MaskRule

    return MaskRule(convention.value, threshold)
