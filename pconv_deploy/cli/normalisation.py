"""How images become a network's numbers, as options say it."""

from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from pconv_deploy.contract import Normalisation

NormalisationName = Literal["unit", "half", "imagenet"]
_NAMED = {  # mean, standard deviation
    "unit": ("0,0,0", "1,1,1"),
    "half": ("0.5,0.5,0.5", "0.5,0.5,0.5"),
    "imagenet": ("0.485,0.456,0.406", "0.229,0.224,0.225"),
}


def parse_normalisation(
    name: NormalisationName | None, mean: str | None, std: str | None
) -> "Normalisation":
    """Read a name, or mean and deviation as "r,g,b" each; neither is "half"."""
    from pconv_deploy.contract import Normalisation  # not before it is needed: --help is quick

    if mean is None and std is None:
        mean, std = _NAMED[name or "half"]
    elif name is not None or mean is None or std is None:
        raise typer.BadParameter("needed either --normalisation, or both --mean and --std")
    colours = _colour(mean, "--mean"), _colour(std, "--std")
    try:
        return Normalisation(mean=colours[0], std=colours[1])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--mean', '--std'") from error


def _colour(text: str, option: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(number) for number in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"found {text!r}; needed three numbers, such as 0.485,0.456,0.406",
            param_hint=repr(option),
        ) from error
    return red, green, blue
