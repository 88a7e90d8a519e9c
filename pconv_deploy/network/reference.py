"""The partial-convolution U-Net written literally from the paper: the reference of all comparisons.

Each layer has a mask of as many channels as its features and convolves it with a kernel of ones of
the weights' full shape; batch norm stays where it is, nothing is folded or skipped. Public PyTorch
implementations compute it this way, so it is also the baseline of our benchmarks. On purpose it
shares no code with `layers` and `unet`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_deploy.contract import UNetConfig


class LiteralPartialConv2d(nn.Module):
    """Liu et al. 2018, eq. 1-2, with a mask (N, C, H, W) of the shape of x (N, C, H, W)."""

    ones: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, (kernel - 1) // 2
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("ones", torch.ones_like(self.weight), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        known = F.conv2d(mask, self.ones, stride=self.stride, padding=self.padding)
        seen = known > 0
        window = self.ones[0].numel()
        y = F.conv2d(x * mask, self.weight, stride=self.stride, padding=self.padding)
        y = y * (window / known.masked_fill(~seen, 1))
        if self.bias is not None:
            y = y + self.bias.view(1, -1, 1, 1)
        return y.masked_fill(~seen, 0), seen.to(x.dtype)


class LiteralStage(nn.Module):
    """Partial convolution, then batch norm and activation where the paper's table has them."""

    def __init__(self, conv: LiteralPartialConv2d, *, norm: bool) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.weight.shape[0]) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
        y, mask = self.conv(x, mask)
        return F.leaky_relu(self.norm(y), negative_slope), mask


class LiteralSigmoidHead(nn.Module):
    """Offset, LeakyReLU 0.2, one matrix for all pixels, logistic function; x (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3))
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.offset.view(1, -1, 1, 1)
        y = torch.where(y < 0, 0.2 * y, y)
        y = torch.einsum("kc,nchw->nkhw", self.conv.weight[:, :, 0, 0], y)
        assert self.conv.bias is not None
        return 1 / (1 + torch.exp(-y - self.conv.bias.view(1, -1, 1, 1)))


class LiteralPConvUNet(nn.Module):
    """Takes the state dict of `PConvUNet` of the same configuration.

    image (N, 3, H, W), known (N, 1, H, W) -> (N, 3, H, W); H, W multiples of 2**levels.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = 3
        for level, (after, kernel) in enumerate(zip(config.channels, config.kernels, strict=True)):
            down = LiteralPartialConv2d(before, after, kernel, 2, bias=level == 0)
            biased = level == 0 and config.head == "linear"
            up = LiteralPartialConv2d(after + before, before, 3, 1, bias=biased)
            self.encoder.append(LiteralStage(down, norm=level > 0))
            self.decoder.insert(0, LiteralStage(up, norm=level > 0))
            before = after
        self.head = LiteralSigmoidHead() if config.head == "sigmoid" else nn.Identity()

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        x, m = image, known.expand_as(image)
        features, masks = [x], [m]
        for stage in self.encoder:
            x, m = stage(features[-1], masks[-1], negative_slope=0.0)  # ReLU
            features.append(x)
            masks.append(m)
        x, m = features.pop(), masks.pop()
        for stage in self.decoder:
            x, m = (t.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for t in (x, m))
            x = torch.cat((x, features.pop()), dim=1)
            m = torch.cat((m, masks.pop()), dim=1)
            x, m = stage(x, m, negative_slope=0.2 if features else 1.0)  # the last layer: none
        output: Tensor = self.head(x)
        return output
