"""Options that several commands have."""

import re
from typing import Annotated, Any, NamedTuple

import typer

from pconv_deploy.cli.console import WEIGHTS_KEY_HELP


class Size(NamedTuple):
    """Pixels. A class, as typer would take a plain tuple for an option of two values."""

    height: int
    width: int


def _parse_size(text: str | Size) -> Size:
    """'512' or '512x768' (height x width) -> height, width."""
    if isinstance(text, Size):  # a default
        return text
    match = re.fullmatch(r"(\d{1,5})(?:[x,](\d{1,5}))?", text.strip())
    if not match:
        raise typer.BadParameter(f"found {text!r}; needed 512 or 512x768 (height x width)")
    height, width = int(match[1]), int(match[2] or match[1])
    if min(height, width) < 1:
        raise typer.BadParameter("found a side of 0; needed at least 1")
    return Size(height, width)


def size_option(help: str, **more: Any) -> Any:
    """Make an option whose value is a `Size`."""
    return typer.Option(help=help, metavar="HxW", parser=_parse_size, **more)


WeightsKey = Annotated[str | None, typer.Option(help=WEIGHTS_KEY_HELP, metavar="KEY")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Batch = Annotated[int, typer.Option(min=1, max=1024, help="Images per batch.")]
MaxMegapixels = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=178,
        help="Maximum image size in megapixels; larger images are refused before decoding. "
        "1 megapixel takes about 1.1 GiB.",
    ),
]
PhotoMegapixels = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=178,
        help="Maximum image size in megapixels; larger images are refused before decoding.",
    ),
]
