"""Score and example images of a run, and a plot of its history."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_deploy.files import atomic_file

_SHOWN = 8  # pictures in a grid
# Order of the subplots; each has its own scale.
_PLOTTED = ("hole", "valid", "variation", "perceptual", "style", "validation hole L1 (%)")


def picture_grid(image: Tensor, known: Tensor, output: Tensor) -> Tensor:
    """Arrange rows of: image with a grey hole, raw output, composite, original image.

    image, output (N, 3, H, W) in 0..1, known (N, 1, H, W) -> (3, n H, 4 W), n at most 8
    """
    image, known, output = (t[:_SHOWN] for t in (image, known, output))
    output = output.clamp(0, 1)
    composite = known * image + (1 - known) * output
    columns = torch.stack([known * image + (1 - known) * 0.5, output, composite, image], dim=1)
    count, width, channels, h, w = columns.shape
    return columns.permute(2, 0, 3, 1, 4).reshape(channels, count * h, width * w)


def validation_score(image: Tensor, known: Tensor, output: Tensor) -> dict[str, float]:
    """Compute L1 (mean over the hole's values) and PSNR of the composite (mean over images).

    image, output (N, 3, H, W) in 0..1, known (N, 1, H, W)
    """
    error = (1 - known) * (output.clamp(0, 1) - image)
    holes = (1 - known).expand_as(image).sum()
    squares = error.square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return {
        "validation hole L1 (%)": 100 * float(error.abs().sum() / holes),
        "validation PSNR (dB)": float(-10 * squares.log10().mean()),
    }


def plot_history(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Plot the loss terms over the steps as PNG.

    Raises:
        OutputError: not writable.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [name for name in _PLOTTED if any(name in line for line in history)]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 2.6 * -(-len(names) // 2)), layout="constrained")
        figure.suptitle(title)
        for number, name in enumerate(names):
            axes = figure.add_subplot(-(-len(names) // 2), 2, number + 1)
            points = [(line["step"], line[name]) for line in history if name in line]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, linewidth=1)
            axes.set_title(name)
            axes.set_xlabel("step")
            if max(values) > 3 * min(values) > 0:
                axes.set_yscale("log")
            axes.grid(visible=True, which="both", alpha=0.3)
        with atomic_file(path) as partial:
            figure.savefig(partial, dpi=110)
