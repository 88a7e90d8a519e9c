"""How images become a network's numbers, as options say it."""

from enum import StrEnum

import typer

from pconv_deploy.contract import Normalisation


class Normalised(StrEnum):
    """Names of the usual ones."""

    unit = "unit"
    half = "half"
    imagenet = "imagenet"


_USUAL = {
    Normalised.unit: Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),  # 0..1
    Normalised.half: Normalisation(),  # -1..1
    Normalised.imagenet: Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}


def parse_normalisation(
    name: Normalised | None, mean: str | None, std: str | None
) -> Normalisation:
    """A name, or mean and deviation as "r,g,b" each; "half" if there is neither."""
    if mean is None and std is None:
        return _USUAL[name or Normalised.half]
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
