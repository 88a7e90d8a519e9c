"""The U-Net of ordinary convolutions, the paper's baseline `Conv` (section 4), and its reference.

A fourth input channel marks the hole, as in networks before partial convolutions.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_deploy.contract import UNetConfig
from pconv_deploy.network.layers import convolve_doubled, pad_to_multiple

_IMAGE_CHANNELS = 4  # RGB and the hole
_DECODER_SLOPE = 0.2


class SkipConv2d(nn.Conv2d):
    """3x3 convolution of features doubled in size and a skip connection beside them.

    x (N, C, H, W), skip (N, S, 2H, 2W) -> (N, K, 2H, 2W)
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        if torch.compiler.is_exporting():
            doubled = F.interpolate(x, scale_factor=2, mode="nearest")
            return super().forward(torch.cat([doubled, skip], dim=1))
        groups = [x.shape[1], skip.shape[1]]
        taps, skip_taps = torch.split(self.weight, groups, dim=1)
        return convolve_doubled(x, taps) + F.conv2d(skip, skip_taps, self.bias, padding=1)


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = conv, norm, activation
        nn.init.kaiming_normal_(conv.weight)

    def forward(self, *features: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(*features)))
        return y


class ConvUNet(nn.Module):
    """Levels, widths, norms and activations of `PConvUNet`; ordinary convolutions.

    image (N, 3, H, W) float, normalised; holes may hold anything finite
    known (N, 1, H, W) float, 0 (hole) or 1 (known)
    -> (N, 3, H, W) float, normalised, not composited

    Any height and width, as `PConvUNet`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = (_IMAGE_CHANNELS, *config.channels)
        self.encoder = nn.ModuleList(
            ConvBlock(
                nn.Conv2d(
                    widths[i], widths[i + 1], kernel, stride=2, padding=kernel // 2, bias=i == 0
                ),
                nn.BatchNorm2d(widths[i + 1]) if i > 0 else nn.Identity(),
                nn.ReLU(),
            )
            for i, kernel in enumerate(config.kernels)
        )
        self.decoder = nn.ModuleList(
            ConvBlock(
                SkipConv2d(
                    widths[i + 1] + widths[i], widths[i] if i > 0 else 3, 3, padding=1, bias=i == 0
                ),
                nn.BatchNorm2d(widths[i]) if i > 0 else nn.Identity(),
                nn.LeakyReLU(_DECODER_SLOPE) if i > 0 else nn.Identity(),
            )
            for i in reversed(range(config.levels))
        )

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image, known = pad_to_multiple(image, known, self.config.size_multiple)
        x = torch.cat([image * known, 1 - known], dim=1)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        for block in self.decoder:
            x = block(x, skips.pop())
        return x[..., :height, :width]


class LiteralConvUNet(nn.Module):
    """The literal formulation: torch's own layers, no code of `ConvUNet`; takes its state dict.

    image (N, 3, H, W), known (N, 1, H, W) -> (N, 3, H, W); H, W multiples of 2**levels.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = 4
        for level, (after, kernel) in enumerate(zip(config.channels, config.kernels, strict=True)):
            norms = level > 0
            down = nn.Conv2d(before, after, kernel, 2, (kernel - 1) // 2, bias=not norms)
            painted = before if norms else 3
            up = nn.Conv2d(after + before, painted, 3, 1, 1, bias=not norms)
            self.encoder.append(_stage(down, norms=norms))
            self.decoder.insert(0, _stage(up, norms=norms))
            before = after

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        features = [torch.cat((image * known, 1.0 - known), dim=1)]
        for stage in self.encoder:
            features.append(torch.relu(stage(features[-1])))
        x = features.pop()
        for stage in self.decoder:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = stage(torch.cat((x, features.pop()), dim=1))
            x = F.leaky_relu(x, 0.2) if features else x
        return x


def _stage(conv: nn.Conv2d, *, norms: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d(conv.out_channels) if norms else nn.Identity()
    return nn.Sequential(OrderedDict(conv=conv, norm=norm))
