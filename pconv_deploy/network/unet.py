"""The inpainting U-Net of partial convolutions (Liu et al. 2018, section 3.2, table 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_deploy.contract import UNetConfig
from pconv_deploy.network.layers import PartialConv2d, SkipPartialConv2d, pad_to_multiple

_DECODER_SLOPE = 0.2


class PConvBlock(nn.Module):
    """Partial convolution, batch norm, activation; returns the updated mask too.

    What goes in is 0 wherever it is unknown, and so is what comes out.
    """

    def __init__(self, conv: PartialConv2d, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = conv, norm, activation

    def forward(self, *features_and_masks: Tensor) -> tuple[Tensor, Tensor]:
        y, known = self.conv(*features_and_masks)
        y = self.activation(self.norm(y))
        # The norm puts its offset into the holes; the activations keep 0 as it is.
        return (y if isinstance(self.norm, nn.Identity) else y * known.to(y.dtype)), known


class SigmoidHead(nn.Module):
    """The layers of PConv-Keras after its last partial convolution.

    The offset stands in for that layer's bias, which there is added in holes too.

    x (N, 3, H, W) -> (N, 3, H, W) in 0..1
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3))
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(x + self.offset[:, None, None], _DECODER_SLOPE)
        return torch.sigmoid(self.conv(y))


class PConvUNet(nn.Module):
    """Fill an image's holes from its known pixels.

    Encoder level i halves the image; decoder level i doubles it again and reads the encoder's
    input at that size beside it, features and masks alike. The outermost encoder and decoder
    layers have a bias and no batch norm, all others batch norm and no bias; under a sigmoid head
    the outermost decoder layer leaves its bias to the head.

    image (N, 3, H, W) float, normalised; holes may hold anything finite
    known (N, 1, H, W) float, 0 (hole) or 1 (known)
    -> (N, 3, H, W) float, normalised, not composited

    Any height and width: the image is padded below and right with hole to a multiple of
    2**levels, and cropped back.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or UNetConfig()
        widths = (3, *self.config.channels)
        linear = self.config.head == "linear"
        self.encoder = nn.ModuleList(
            PConvBlock(
                PartialConv2d(
                    widths[i],
                    widths[i + 1],
                    kernel,
                    stride=2,
                    padding=kernel // 2,
                    bias=i == 0,
                    input_is_masked=True,
                ),
                nn.BatchNorm2d(widths[i + 1]) if i > 0 else nn.Identity(),
                nn.ReLU(),
            )
            for i, kernel in enumerate(self.config.kernels)
        )
        self.decoder = nn.ModuleList(
            PConvBlock(
                SkipPartialConv2d(widths[i + 1], widths[i], widths[i], bias=i == 0 and linear),
                nn.BatchNorm2d(widths[i]) if i > 0 else nn.Identity(),
                nn.LeakyReLU(_DECODER_SLOPE) if i > 0 else nn.Identity(),
            )
            for i in reversed(range(self.config.levels))
        )
        self.head = nn.Identity() if linear else SigmoidHead()

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        filled = self._fill(*pad_to_multiple(image, known, self.config.size_multiple))
        return filled[..., :height, :width]

    def _fill(self, image: Tensor, known: Tensor) -> Tensor:
        x = image * known
        skips = []
        for block in self.encoder:
            skips.append((x, known))
            x, known = block(x, known)
        for block in self.decoder:
            x, known = block(x, known, *skips.pop())
        filled: Tensor = self.head(x)
        return filled
