"""Plot a set of hole masks: areas, positions, examples."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.files import atomic_file
from pconv_deploy.images.arrays import Hole
from pconv_deploy.images.files import read_hole_mask
from pconv_deploy.masks.irregular import AREA_BUCKETS, BORDER_PIXELS
from pconv_deploy.masks.reading import HoleMaskFile, in_threads

_MOST_READ = 50  # masks of each class, evenly over it, for the maps of where holes lie
_MAP_SIDE = 128
_EXAMPLE_SIDE = 256
_COLOURS = {True: "#c1543c", False: "#3c6ea5"}
_NAMES = {True: "near the border", False: "far from the border"}


def plot_mask_set(masks: Sequence[HoleMaskFile], path: Path) -> None:
    """Write areas by class, maps of where holes lie, and an example of each class.

    Masks of no class are left out.

    Raises:
        InputError: a mask cannot be read.
        OutputError: the picture cannot be written.
    """
    classes = {
        (area, border): [m for m in masks if m.bucket == area and m.border is border]
        for area in AREA_BUCKETS
        for border in (True, False)
    }
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
        rows = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.15), hspace=0.04)
        upper, lower = rows[:, 0]
        columns = upper.subfigures(1, 2, squeeze=False, width_ratios=(1.2, 1), wspace=0.03)
        left, right = columns[0]
        used = sum(map(len, classes.values()))
        left.suptitle(f"{used} hole masks by area", fontweight="bold")
        _plot_areas(left.subplots(), masks)
        right.suptitle("how often a pixel is hole", fontweight="bold")
        _plot_places(right, classes)
        lower.suptitle("one of each class", fontweight="bold")
        _plot_examples(lower, classes)
        with atomic_file(path) as partial:
            FigureCanvasAgg(figure)  # without it a window system might be asked for
            figure.savefig(partial)


_Classes = dict[tuple[tuple[float, float], bool], list[HoleMaskFile]]


def _plot_areas(axes: Axes, masks: Sequence[HoleMaskFile]) -> None:
    shares = {
        border: [100 * (m.share or 0.0) for m in masks if m.bucket and m.border is border]
        for border in (True, False)
    }
    axes.hist(
        list(shares.values()),
        bins=list(range(61)),
        stacked=True,
        color=[_COLOURS[border] for border in shares],
        label=[f"{_NAMES[border]}: {len(values)}" for border, values in shares.items()],
    )
    edges = [100 * edge for edge in (AREA_BUCKETS[0][0], *(high for _, high in AREA_BUCKETS))]
    for edge in edges:
        axes.axvline(edge, color="0.75", linewidth=0.8, zorder=0)
    axes.set_xticks(edges, [f"{edge:.0f}" for edge in edges])
    axes.set_xlabel("hole, % of the image (lines: limits of the classes)")
    axes.set_ylabel("masks for each 1 %")
    axes.margins(y=0.25)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", ncols=2, frameon=False)


def _plot_places(figure: SubFigure, classes: _Classes) -> None:
    axes = figure.subplots(1, 2)
    maps = {}
    for border in (True, False):
        paths = [
            masks[at].path
            for (_, near), masks in classes.items()
            if near is border and masks
            for at in np.linspace(0, len(masks) - 1, min(len(masks), _MOST_READ)).astype(int)
        ]
        maps[border] = (_frequency(paths), len(paths))
    brightest = max(0.01, *(float(frequency.max()) for frequency, _ in maps.values()))
    for ax, (border, (frequency, count)) in zip(axes, maps.items(), strict=True):
        shown = ax.imshow(frequency, cmap="viridis", vmin=0, vmax=brightest)
        ax.set_title(f"{_NAMES[border]}\n({count} masks)", fontsize=9, color=_COLOURS[border])
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(
        shown, ax=axes, location="bottom", shrink=0.7, format=lambda share, _: f"{share:.0%}"
    )


def _frequency(paths: Sequence[Path]) -> NDArray[np.float64]:
    """How often each pixel is hole, in a map of one size for masks of any: 0 to 1."""
    if not paths:
        return np.zeros((_MAP_SIDE, _MAP_SIDE))
    first = read_hole_mask(paths[0])
    scale = _MAP_SIDE / max(first.shape)
    size = max(1, round(scale * first.shape[1])), max(1, round(scale * first.shape[0]))
    total = np.zeros((size[1], size[0]))
    for levels in in_threads(lambda path: _reduced(read_hole_mask(path), size), paths):
        total += levels
    return total / (255 * len(paths))


def _reduced(hole: Hole, size: tuple[int, int]) -> NDArray[np.uint8]:
    image = Image.fromarray(hole.astype(np.uint8) * 255)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _plot_examples(figure: SubFigure, classes: _Classes) -> None:
    grid = figure.subplots(2, len(AREA_BUCKETS))
    for row, border in enumerate((True, False)):
        for column, area in enumerate(AREA_BUCKETS):
            ax = grid[row, column]
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set(visible=True, color=_COLOURS[border])
            if row == 0:
                ax.set_title(f"{100 * area[0]:.0f} to {100 * area[1]:.0f} %", fontsize=9)
            if column == 0:
                ax.set_ylabel(_NAMES[border], color=_COLOURS[border])
            if masks := classes[area, border]:
                _show_example(ax, read_hole_mask(masks[len(masks) // 2].path), border=border)
            else:
                ax.text(0.5, 0.5, "none", ha="center", va="center", transform=ax.transAxes)
                ax.set_aspect("equal", adjustable="box")


def _show_example(ax: Axes, hole: Hole, *, border: bool) -> None:
    """The hole in black, as on paper; dashed what holes far from the border leave free."""
    height, width = hole.shape
    scale = min(1.0, _EXAMPLE_SIDE / max(hole.shape))
    levels = _reduced(hole, (max(1, round(scale * width)), max(1, round(scale * height))))
    ax.imshow(levels, cmap="gray_r", vmin=0, vmax=255, extent=(0, width, height, 0))
    if not border:
        x, y = BORDER_PIXELS * width / 512, BORDER_PIXELS * height / 512
        ax.plot(
            [x, width - x, width - x, x, x],
            [y, y, height - y, height - y, y],
            color=_COLOURS[border],
            linestyle=(0, (2, 3)),
            linewidth=0.8,
        )
