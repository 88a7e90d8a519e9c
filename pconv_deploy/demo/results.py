"""What a run of the demo found out: everything that its report says comes from here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from pconv_deploy.benchmark.contenders import REFERENCE
from pconv_deploy.benchmark.run import BenchResult, Timing
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.parity import ParityReport

# A 90th percentile of a ratio that is this many times its 10th makes the figure a rough one.
WIDE = 1.25
# Load average over cores, before anything began, from which other work is in the way.
BUSY = 0.75


@dataclass(frozen=True)
class DemoPhoto:
    """A photo (RGB), its hole (H, W) and what the demo's engine made of them, read from its file.

    by_telea  the yardstick's fill, RGB; None where OpenCV is not installed
    """

    name: str
    photo: Image.Image
    hole: Hole
    filled: Image.Image
    by_telea: Image.Image | None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How near fills are to the original photos.

    square_errors  mean square difference in the hole by photo, 0..255**2
    pixels         of the hole by photo
    known_changed  known pixels that are not the photo's own, of all photos
    known          how many there are
    """

    square_errors: Mapping[str, float]
    pixels: Mapping[str, int]
    known_changed: int
    known: int

    @property
    def psnr(self) -> float | None:
        """PSNR over all holes' pixels together, dB; None where nothing differs."""
        total = sum(self.square_errors[name] * count for name, count in self.pixels.items())
        return _decibel(total / sum(self.pixels.values()))

    def photo_psnr(self, name: str) -> float | None:
        """PSNR in the hole of one photo, dB; None where nothing differs."""
        return _decibel(self.square_errors[name])


def score(fills: Mapping[str, tuple[Bytes, Bytes, Hole]]) -> Score:
    """Compare fills with the original photos.

    Args:
        fills: by photo: what was filled and the original, (H, W, 3) uint8, and the hole.
    """
    errors, pixels, changed, known = {}, {}, 0, 0
    for name, (filled, original, hole) in fills.items():
        difference = filled.astype(np.int64) - original
        errors[name] = float(np.square(difference[hole]).mean())
        pixels[name] = int(hole.sum())
        changed += int(difference[~hole].any(-1).sum())
        known += int((~hole).sum())
    return Score(square_errors=errors, pixels=pixels, known_changed=changed, known=known)


def _decibel(square_error: float) -> float | None:
    return 10 * math.log10(255**2 / square_error) if square_error else None


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """All of one run.

    network       in words
    caveat        what the network is worth, in words
    main          the contender that is the demo's own engine
    manifests     of the engines, by contender
    left_out      what could not take part, by contender, and why
    scores        by contender; of the engines, and of Telea
    exactness     the demo's engine against the literal network in float64
    parities      as export and build measured them: graph, engine
    load          load average of the last minute before the demo began
    outputs       files by path, with what each is
    """

    network: str
    caveat: str
    created: str
    main: str
    engine: Path
    manifests: Mapping[str, Manifest]
    left_out: Mapping[str, str]
    photos: Sequence[DemoPhoto]
    scores: Mapping[str, Score]
    bench: BenchResult
    exactness: ParityReport
    parities: tuple[ParityReport, ...]
    load: float
    environment: Mapping[str, str]
    outputs: Mapping[Path, str]

    def timing(self, contender: str) -> Timing:
        return next(t for t in self.bench.contenders if t.name == contender)

    @property
    def reference(self) -> Timing:
        return self.timing(REFERENCE)

    @property
    def busy(self) -> bool:
        """Whether other work was under way when the demo began."""
        return self.load > BUSY * int(self.bench.environment["cores"])


def spread(timing: Timing) -> float:
    """How many times its 10th percentile a ratio's 90th is; 1 of the reference itself."""
    if timing.ratio_p10 is None or timing.ratio_p90 is None:
        return 1.0
    return timing.ratio_p90 / timing.ratio_p10
