"""Options of the commands that fill photos: how much of a photo the network sees."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pconv_deploy.regions import RegionOptions

Region = Annotated[
    Literal["auto", "exact", "crop"],
    typer.Option(
        help="What the network sees: exact is the whole photo, crop a part around each hole, auto "
        "the whole photo if the memory suffices."
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        min=16,
        max=4096,
        help="Pixels around a hole in a crop. Default: the training size, or 512.",
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(min=16, help="Maximum memory of a run in MiB. Default: half of what is free."),
]


def region_options(
    region: Literal["auto", "exact", "crop"], context: int | None, max_memory: int | None
) -> "RegionOptions":
    """Make what the options ask for; max_memory in MiB."""
    from pconv_deploy.regions import RegionOptions

    limit = None if max_memory is None else max_memory << 20
    return RegionOptions(region=region, context=context, max_memory=limit)
