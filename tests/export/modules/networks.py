"""NVIDIA's layer, written again from its description, and networks of users made of it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PartialConv2d(nn.Conv2d):
    """As NVIDIA/partialconv describes it, state between calls included."""

    def __init__(
        self, *arguments: Any, multi_channel: bool = False, return_mask: bool = False, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.multi_channel, self.return_mask = multi_channel, return_mask
        shape = (self.out_channels, self.in_channels) if multi_channel else (1, 1)
        self.weight_maskUpdater = torch.ones(*shape, *self.kernel_size)  # in no state dict
        self.slide_winsize = self.weight_maskUpdater[0].numel()
        self.last_size: tuple[int, ...] | None = None
        self.update_mask = self.mask_ratio = torch.empty(0)

    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        if mask_in is not None or self.last_size != tuple(input.shape):
            self.last_size = tuple(input.shape)
            self.weight_maskUpdater = self.weight_maskUpdater.to(input)
            mask = mask_in
            if mask is None:
                copies = input.shape[:2] if self.multi_channel else (1, 1)
                mask = torch.ones(*copies, *input.shape[2:]).to(input)
            with torch.no_grad():
                known = F.conv2d(
                    mask,
                    self.weight_maskUpdater,
                    stride=self.stride,
                    padding=self.padding,
                    dilation=self.dilation,
                )
                self.update_mask = known.clamp(0, 1)
                self.mask_ratio = self.slide_winsize / (known + 1e-8) * self.update_mask
        raw = super().forward(input if mask_in is None else input * mask_in)
        if self.bias is None:
            output = raw * self.mask_ratio
        else:
            bias = self.bias.view(1, -1, 1, 1)
            output = ((raw - bias) * self.mask_ratio + bias) * self.update_mask
        return (output, self.update_mask) if self.return_mask else output


class UNet(nn.Module):
    """Two levels, as users of the layer write one; mask 1 = known."""

    def __init__(self, layer: Any = PartialConv2d, *, multi_channel: bool = True) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, **named: Any) -> nn.Module:
            made: nn.Module = layer(
                inputs,
                outputs,
                kernel,
                padding=kernel // 2,
                multi_channel=multi_channel,
                return_mask=True,
                **named,
            )
            return made

        self.multi_channel = multi_channel
        self.down1 = conv(3, 6, 5, stride=2)
        self.down2 = conv(6, 8, 3, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.up2 = conv(8 + 6, 6, 3, bias=False)
        self.norm_up2 = nn.BatchNorm2d(6)
        self.up1 = conv(6 + 3, 3, 3)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x1, m1 = self.down1(image, mask)
        x1 = F.relu(x1)
        x2, m2 = self.down2(x1, m1)
        x2 = F.relu(self.norm2(x2))
        x, m = self.up2(*self._beside(x2, m2, x1, m1))
        x = F.leaky_relu(self.norm_up2(x), 0.2)
        output, m = self.up1(*self._beside(x, m, image, mask))
        return output, m

    def _beside(self, x: Tensor, m: Tensor, skip: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1)
        m = F.interpolate(m, scale_factor=2.0)
        # One channel cannot say of both what is known.
        return x, torch.cat([m, known], 1) if self.multi_channel else m


class UNetBySize(UNet):
    """Enlarges to the size of what it joins."""

    def _beside(self, x: Tensor, m: Tensor, skip: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1)
        return x, torch.cat([F.interpolate(m, size=known.shape[2:]), known], 1)


class Sequential(nn.Module):
    """Layers in a row with every setting the layer has; takes any size."""

    def __init__(self, *, multi_channel: bool = False, return_mask: bool = False) -> None:
        super().__init__()
        named: dict[str, Any] = {"multi_channel": multi_channel, "return_mask": return_mask}
        self.return_mask = return_mask
        self.layers = nn.ModuleList(
            [
                PartialConv2d(3, 6, (3, 5), padding=(1, 2), **named),
                PartialConv2d(6, 6, 3, padding="same", dilation=2, groups=3, bias=False, **named),
                PartialConv2d(6, 3, 3, padding=1, **named),
            ]
        )

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x: Any = image
        for layer in self.layers:
            if self.return_mask:
                x, mask = layer(x, mask)
            else:  # the first mask is given to every layer that can take it
                x = layer(x, mask if mask.shape[1] in (1, x.shape[1]) else None)
            x = torch.tanh(x)
        output: Tensor = x
        return output


class Padding(nn.Module):
    """The layer in place of zero padding: all is known but the outside."""

    def __init__(self, *, multi_channel: bool = False) -> None:
        super().__init__()
        named: dict[str, Any] = {"multi_channel": multi_channel, "padding": 1}
        self.first = PartialConv2d(4, 5, 3, **named)
        self.second = PartialConv2d(5, 3, 3, bias=False, **named)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(torch.cat([image, mask], 1))))
        return out


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """No batch norm is the identity, no bias zero."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.5)
            nn.init.normal_(part.running_mean, std=0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module


def make_unet() -> nn.Module:
    return randomised(UNet())


class Plain(nn.Module):
    """Convolves, but not partially."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.conv(torch.cat([image, mask], 1))
        return output


def make_plain() -> nn.Module:
    return Plain()
