"""Options of all commands that read hole masks: which of their pixels are the hole."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pconv_deploy.images.hole_rule import MaskRule


class Convention(StrEnum):
    """Which pixels of a mask file are the hole."""

    HOLE_WHITE = "hole-white"
    HOLE_BLACK = "hole-black"
    ALPHA = "alpha"


MaskConvention = Annotated[
    Convention,
    typer.Option(
        "--mask-convention",
        metavar="CONVENTION",
        help="Which mask pixels are the hole: white ones (hole-white), black ones (hole-black) or "
        "transparent ones (alpha); grey ones are hole under both of the first.",
    ),
]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        "--mask-threshold",
        min=1,
        max=255,
        help="Smallest value from which a pixel is hole: how white, black or transparent it is, by "
        "--mask-convention; 1 takes every label of a label map. Default: 16, and refuse a mask "
        "that holds only lower values; docs/embedding.md has the rule.",
        show_default=False,
    ),
]


def mask_rule(convention: Convention, threshold: int | None) -> "MaskRule":
    """Make the rule that the options ask for."""
    from pconv_deploy.images.hole_rule import MaskRule

    return MaskRule(convention.value, threshold)
