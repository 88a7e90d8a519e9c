"""The paper's training loss (Liu et al. 2018, section 3.3, eq. 2-7).

I_gt is the original image, I_out the network's output, M the mask (1 = known),
I_comp = M I_gt + (1 - M) I_out, N the number of values of the image (every L1 norm is averaged
over all of them, also those of masked terms):

    valid       |M (I_out - I_gt)| / N
    hole        |(1 - M) (I_out - I_gt)| / N
    perceptual  sum over VGG-16's pool1..3 of mean |F(I_out) - F(I_gt)| + mean |F(I_comp) - F(I_gt)|
    style       the same for G(F) = F F^T / (C H W), averaged over its C x C values
    variation   |differences of neighbours of I_comp, both in the hole grown by one pixel| / N
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_deploy.training.config import LossWeights

Features = Callable[[Tensor], list[Tensor]]


def inpainting_loss(
    output: Tensor,
    target: Tensor,
    known: Tensor,
    *,
    features: Features | None = None,
    weights: LossWeights | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss and its terms.

    Args:
        output: (N, 3, H, W), the network's raw output, RGB about 0..1.
        target: (N, 3, H, W), the original image, RGB in 0..1.
        known: (N, 1, H, W), 0 (hole) or 1 (known).
        features: VGG-16's feature maps, see `training.vgg`; None omits the perceptual and style
            terms.
        weights: weight of each term.

    Returns:
        The weighted sum, and each term before its weight, all scalars.
    """
    weights = weights or LossWeights()
    composite = known * target + (1 - known) * output
    difference = (output - target).abs()
    terms = {
        "valid": (known * difference).mean(),
        "hole": ((1 - known) * difference).mean(),
        "variation": hole_variation(composite, known),
    }
    if features is not None:
        terms["perceptual"], terms["style"] = _feature_terms(features, output, composite, target)
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, terms


def hole_variation(composite: Tensor, known: Tensor) -> Tensor:
    """Total variation (eq. 6) in the hole grown by one pixel, over the number of values.

    Both pixels of a pair lie in the grown hole, so the boundary to the known pixels counts.

    composite (N, 3, H, W), known (N, 1, H, W) of 0 and 1 -> scalar
    """
    region = F.max_pool2d(1 - known, 3, stride=1, padding=1)
    rows = (composite[:, :, 1:] - composite[:, :, :-1]).abs() * region[:, :, 1:] * region[:, :, :-1]
    columns = (composite[..., 1:] - composite[..., :-1]).abs() * region[..., 1:] * region[..., :-1]
    return (rows.sum() + columns.sum()) / composite.numel()


def gram_matrix(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C), the channels' products averaged with 1 / (C H W) (eq. 4)."""
    count, channels, height, width = maps.shape
    flat = maps.reshape(count, channels, height * width)
    return flat @ flat.transpose(1, 2) / (channels * height * width)


def _feature_terms(
    features: Features, output: Tensor, composite: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    # One forward pass for all three images; the target needs no gradient.
    maps = features(torch.cat([output, composite, target]))
    perceptual, style = [], []
    for level in maps:
        of_output, of_composite, of_target = level.chunk(3)
        for painted in (of_output, of_composite):
            perceptual.append(F.l1_loss(painted, of_target))
            style.append(F.l1_loss(gram_matrix(painted), gram_matrix(of_target)))
    return torch.stack(perceptual).sum(), torch.stack(style).sum()
