"""How images become a network's numbers, as options say it."""

from enum import StrEnum
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pconv_deploy.contract import Normalisation


class Normalised(StrEnum):
    """Names of the usual ones."""

    unit = "unit"
    half = "half"
    imagenet = "imagenet"


_USUAL = {  # mean, standard deviation
    Normalised.unit: ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    Normalised.half: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalised.imagenet: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def parse_normalisation(
    name: Normalised | None, mean: str | None, std: str | None
) -> "Normalisation":
    """A name, or mean and deviation as "r,g,b" each; "half" if there is neither."""
    from pconv_deploy.contract import Normalisation  # not before it is needed: --help is quick

    if mean is None and std is None:
        usual_mean, usual_std = _USUAL[name or Normalised.half]
        return Normalisation(mean=usual_mean, std=usual_std)
    if name is not None or mean is None or std is None:
        raise typer.BadParameter("needed either --normalisation, or both --mean and --std")
    try:
        return Normalisation(mean=_colour(mean), std=_colour(std))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _colour(text: str) -> tuple[float, float, float]:
    numbers = [float(number) for number in text.split(",")]
    if len(numbers) != 3:
        raise ValueError(f"found {text!r}; needed three numbers, such as 0.485,0.456,0.406")
    return numbers[0], numbers[1], numbers[2]
