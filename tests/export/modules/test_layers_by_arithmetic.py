"""A layer is a partial convolution by what it computes; others are exported as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from pconv_deploy.export.modules.partial_convolutions import with_operators
from pconv_deploy.export.modules.trial import run_on_holes
from tests.export.modules.conftest import Offer
from tests.export.modules.networks import PartialConv2d, UNet, randomised

SMALL = ExportOptions(batch=1, size=(16, 16))


class WithoutRatio(PartialConv2d):
    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        super().forward(input, mask_in)
        return nn.Conv2d.forward(self, input), self.update_mask


class MaskIgnored(PartialConv2d):
    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        _, known = super().forward(input, mask_in)
        self.last_size = None
        return super().forward(input, None)[0], known


class RatioTwice(PartialConv2d):
    """As in one public copy of the layer, where it has a bias."""

    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        y, known = super().forward(input, mask_in)
        return y if self.bias is None else y * self.mask_ratio, known


class Reflecting(PartialConv2d):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, padding_mode="reflect", **named)


class HardMask(PartialConv2d):
    """Equal to the operator where masks are 0 and 1, but not elsewhere."""

    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        y, known = super().forward(input, mask_in)
        return y, (known > 0).float()


class Window(nn.Conv2d):
    """The layer under other names, which takes its mask by another name and gives one channel."""

    def __init__(
        self, *arguments: Any, multi_channel: bool, return_mask: bool, **named: Any
    ) -> None:
        assert multi_channel
        assert return_mask
        super().__init__(*arguments, **named)
        self.ones = torch.ones(self.weight.shape)

    def forward(self, features: Tensor, valid: Tensor) -> Any:  # type: ignore[override]
        valid = valid.expand(-1, self.in_channels, -1, -1)
        seen = F.conv2d(valid, self.ones, None, self.stride, self.padding)
        share = self.ones[0].numel() / (seen + 1e-6) * seen.clamp(0, 1)
        y = F.conv2d(features * valid, self.weight, None, self.stride, self.padding) * share
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        known = seen.clamp(0, 1)
        return y * known, known.prod(dim=1, keepdim=True)


class WindowUNet(UNet):
    def __init__(self) -> None:
        super().__init__(Window)

    def _beside(self, x: Tensor, m: Tensor, skip: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        parts = [(x.shape[1], F.interpolate(m, scale_factor=2.0)), (skip.shape[1], known[:, :1])]
        mask = torch.cat([part.repeat(1, count, 1, 1) for count, part in parts], 1)
        return torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1), mask


@pytest.mark.parametrize("layer", [WithoutRatio, MaskIgnored, RatioTwice, Reflecting])
def test_lookalikes_are_told(layer: Any) -> None:
    network = randomised(UNet(layer)).eval()
    made = with_operators(network, lambda network: run_on_holes(network, 3, (16, 16)))
    found, difference = next(iter(made.lookalikes.items()))
    assert found == f"down1 ({layer.__name__})"
    assert difference.startswith("with a mask of 3 channels, its output differs by")


def test_lookalikes_are_exported_as_they_are(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(lambda: randomised(UNet(MaskIgnored))))
    result = export_module(request, tmp_path / "x.onnx", SMALL)
    assert not result.parity.failures()
    (note,) = result.notes
    assert note.startswith("down1 (MaskIgnored)")
    assert "exported as the operators that it is made of" in note


def test_a_layer_under_other_names_is_one(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(lambda: randomised(WindowUNet())))
    result = export_module(request, tmp_path / "x.onnx", SMALL)
    assert not result.parity.failures()
    assert not result.notes
    assert result.contract.source.module is not None
    assert result.contract.source.module.partial_convolutions == 4


class SoftUNet(UNet):
    """Enlarges its masks bilinearly."""

    def _beside(self, x: Tensor, m: Tensor, skip: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        m = F.interpolate(m, scale_factor=2.0, mode="bilinear")
        return torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1), torch.cat([m, known], 1)


def test_masks_that_are_not_0_and_1(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(lambda: randomised(SoftUNet(HardMask))))
    result = export_module(request, tmp_path / "x.onnx", SMALL)
    assert not result.parity.failures()
    assert result.contract.source.module is not None
    assert result.contract.source.module.partial_convolutions == 3
    assert [note.partition(" ")[0] for note in result.notes] == ["up2"]


class PaddedAsKnown(PartialConv2d):
    def forward(self, input: Tensor, mask_in: Tensor | None = None) -> Any:
        if mask_in is not None:
            return super().forward(input, mask_in)
        return nn.Conv2d.forward(self, input)


class Standardised(nn.Conv2d):
    """An ordinary convolution with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias)


def test_a_layer_may_be_one_with_a_mask_alone() -> None:
    layer = PaddedAsKnown(3, 4, 3, padding=1, return_mask=True)
    made = with_operators(layer, lambda network: network(torch.ones(1, 3, 8, 8)))
    (difference,) = made.lookalikes.values()
    assert difference.startswith("without a mask, ")
    x, mask = torch.randn(1, 3, 8, 8), torch.rand(1, 1, 8, 8).round()
    fresh = PaddedAsKnown(3, 4, 3, padding=1, return_mask=True)
    fresh.load_state_dict(made.network.state_dict())
    torch.testing.assert_close(made.network(x, mask), fresh(x, mask))
    torch.testing.assert_close(made.network(x), fresh(x))


def test_convolutions_without_a_mask_are_no_lookalikes() -> None:
    network = nn.Sequential(Standardised(3, 3, 3), nn.Conv2d(3, 3, 3))
    made = with_operators(network, lambda network: network(torch.ones(1, 3, 8, 8)))
    assert made.partial_convolutions == 0
    assert not made.lookalikes
