"""Options that several commands have."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    from pconv_deploy.images.hole_rule import MaskRule
    from pconv_deploy.regions import RegionOptions

CHECKPOINT_HELP = (
    "Checkpoint: ours (*.safetensors), naoto0804/pytorch-inpainting-with-partial-conv or MMagic's "
    "PConv (*.pth), MathiasGruber/PConv-Keras (*.h5, *.keras)."
)


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


class Shard(NamedTuple):
    """One of several equal parts of the work, from 0."""

    number: int
    of: int


def _parse_shard(text: str) -> Shard:
    """'0/8' -> the first of eight."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not match or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(f"found {text!r}; needed I/N with I from 0 to N-1, such as 0/8")
    return Shard(int(match[1]), int(match[2]))


def between(low: float, high: float | None = None, **more: Any) -> Any:
    """Make an option whose value is a number in a range."""
    return typer.Option(min=low, max=high, **more)


# Each command that takes one of these without a help describes it in its docstring.
OptionalSize = Annotated[Size | None, typer.Option(metavar="HxW", parser=_parse_size)]
OptionalShard = Annotated[Shard | None, typer.Option(metavar="I/N", parser=_parse_shard)]
Output = Annotated[Path, typer.Option("--output", "-o")]
OptionalOutput = Annotated[Path | None, typer.Option("--output", "-o")]
Count = Annotated[int | None, between(1, 1024)]
Names = Annotated[list[str] | None, typer.Option(metavar="NAME")]

Engine = Annotated[Path, typer.Argument(help="Engine folder, made by `pconv-deploy build-engine`.")]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Which weights to read, where a file of another project holds several sets, such as "
        "params_ema.",
    ),
]
Overwrite = Annotated[bool, typer.Option(help="Replace the output if it exists.")]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Batch = Annotated[int, between(1, 1024, help="Images per batch.")]
MaxMegapixels = Annotated[
    float,
    between(
        0.001,
        178,
        help="Maximum image size in megapixels; larger images are refused before decoding.",
    ),
]


@dataclass(frozen=True)
class MaskOptions:
    """Options of all commands that read hole masks.

    Options:
        mask_convention: Which mask pixels are the hole: white ones (hole-white), black ones
            (hole-black) or transparent ones (alpha); grey ones are hole under both of the first.
        mask_threshold: Smallest value from which a pixel is hole: how white, black or transparent
            it is, by --mask-convention; 1 takes every label of a label map. Default: 16, and refuse
            a mask that holds only lower values; docs/embedding.md has the rule.
    """

    mask_convention: Annotated[
        Literal["hole-white", "hole-black", "alpha"], typer.Option(metavar="CONVENTION")
    ] = "hole-white"
    mask_threshold: Annotated[int | None, between(1, 255, show_default=False)] = None

    def rule(self) -> "MaskRule":
        """Return the rule by which masks are read."""
        from pconv_deploy.images.hole_rule import MaskRule

        return MaskRule(self.mask_convention, self.mask_threshold)


@dataclass(frozen=True)
class PhotoLimits:
    """Options of the commands that fill photos: how much of a photo the network sees.

    Options:
        region: What the network sees: exact is the whole photo, crop a part around each hole, auto
            the whole photo if the memory suffices.
        context: Pixels around a hole in a crop. Default: the training size, or 512.
        max_memory: Maximum memory of a run in MiB. Default: half of what is free.
    """

    region: Literal["auto", "exact", "crop"] = "auto"
    context: Annotated[int | None, between(16, 4096)] = None
    max_memory: Annotated[int | None, between(16)] = None
    max_megapixels: MaxMegapixels = 25

    def regions(self) -> "RegionOptions":
        """Return what of a photo the network sees."""
        from pconv_deploy.regions import RegionOptions

        limit = None if self.max_memory is None else self.max_memory << 20
        return RegionOptions(region=self.region, context=self.context, max_memory=limit)


def split_names(given: list[str] | None) -> tuple[str, ...]:
    """Return the names of a repeatable option, each of which may hold several with commas."""
    return tuple(name.strip() for names in given or () for name in names.split(","))
