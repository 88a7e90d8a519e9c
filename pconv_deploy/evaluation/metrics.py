"""L1, PSNR and SSIM between a filled image and the original."""

import math
from typing import NamedTuple

import numpy as np
from skimage.metrics import structural_similarity

from pconv_deploy.errors import ImageError
from pconv_deploy.images.arrays import Bytes, Hole

# Width of SSIM's Gaussian window (Wang et al. 2004): sigma 1.5, cut at 5 pixels to each side.
SSIM_WINDOW = 11


class PictureMetrics(NamedTuple):
    """Of one composite against the original; all but `l1_hole` over the whole picture.

    l1       mean |difference| in percent of the range of values
    l1_hole  the same over the hole's pixels alone; None without a hole
    psnr     dB; None where nothing differs, which would be infinite
    ssim     -1..1
    """

    l1: float
    l1_hole: float | None
    psnr: float | None
    ssim: float


def compare_pictures(filled: Bytes, original: Bytes, hole: Hole) -> PictureMetrics:
    """Compare (H, W, 3) uint8 with (H, W, 3) uint8; hole (H, W) of booleans.

    Raises:
        ImageError: smaller than SSIM's window.
    """
    height, width = hole.shape
    if min(height, width) < SSIM_WINDOW:
        raise ImageError(
            f"found a picture of {width}x{height}; SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    # Whole numbers: sums are exact up to pictures of 2**53 / 255**2 values.
    difference = filled.astype(np.int64) - original
    mean_square = float(np.square(difference).mean())
    return PictureMetrics(
        l1=float(np.abs(difference).mean()) / 255 * 100,
        l1_hole=float(np.abs(difference[hole]).mean()) / 255 * 100 if hole.any() else None,
        psnr=10 * math.log10(255**2 / mean_square) if mean_square else None,
        ssim=float(
            structural_similarity(
                original,
                filled,
                data_range=255,
                channel_axis=-1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        ),
    )
