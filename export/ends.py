"""The ends of an exported graph around the network: uint8 or float in and out."""

import torch
from torch import Tensor, nn

from pconv_deploy.contract import Normalisation


class TensorGraph(nn.Module):
    """Normalise float images; the caller composites.

    image (N, 3, H, W) float, 0..1; hole_mask (N, 1, H, W) float, nonzero = fill
    -> output (N, 3, H, W) float, about 0..1, neither clipped nor composited
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(normalisation.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(normalisation.std)[:, None, None])

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        known = (hole_mask == 0).to(image.dtype)
        output: Tensor = self.network((image - self.mean) / self.std, known)
        return output * self.std + self.mean


class DeploymentGraph(nn.Module):
    """Convert uint8 images and composite; the known pixels are returned unchanged.

    image (N, H, W, 3) uint8; hole_mask (N, H, W) uint8, nonzero = fill
    -> filled (N, H, W, 3) uint8, and the network's own output (N, 3, H, W) float, about 0..1
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.inner = TensorGraph(network, normalisation)

    def forward(self, image: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.inner.mean.dtype
        # uint8 at the very ends only: TensorRT does nothing with it but convert.
        levels = image.to(dtype).permute(0, 3, 1, 2)  # NCHW, 0..255
        hole = hole_mask.to(dtype)[:, None]  # N1HW, nonzero = fill
        raw = self.inner(levels / 255, hole)
        painted = torch.round(raw * 255).clamp(0, 255)
        # Whole numbers, so that the known ones come back as they were.
        filled = torch.where(hole != 0, painted, levels)
        return filled.permute(0, 2, 3, 1).to(torch.uint8), raw
