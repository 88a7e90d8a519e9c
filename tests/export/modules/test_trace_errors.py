"""Modules whose code torch.export or torch.onnx cannot follow, at all or at every size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pconv_deploy.errors import ModuleError, ParityError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from tests.export.modules.conftest import Offer
from tests.export.modules.networks import PartialConv2d, UNetBySize

SMALL = ExportOptions(batch=1, size=(16, 16))


class BranchOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class NoOnnxOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.bessel_j0(x)
        return y


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).reshape(-1, 3, 64, 96) if x.shape[2] == 64 else x


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class With(nn.Module):
    """One part behind a partial convolution."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.start = PartialConv2d(3, 3, 3, padding=1)
        self.rest = nn.Sequential(nn.ReLU(), part)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.rest(self.start(image, mask))
        return output


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            BranchOnValues(),
            SMALL,
            r"submodule rest\.1 branches on the values of a tensor \(test_trace_errors\.py, "
            r"line \d+\);.*torch\.where",
        ),
        (
            NoOnnxOperator(),
            SMALL,
            r"submodule rest\.1 uses prims\.bessel_j0, for which torch\.onnx",
        ),
        (
            FixedSize(),
            ExportOptions(),
            r"at every size; needed height 64, width 96\. Pass --size HxW, and --batch N too$",
        ),
    ],
)
def test_what_export_cannot_follow(
    offer: Offer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    part: nn.Module,
    options: ExportOptions,
    message: str,
) -> None:
    with pytest.raises(ModuleError, match=message):
        export_module(ModuleRequest(factory=offer(With(part))), tmp_path / "x.onnx", options)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")  # torch would print all that it had traced


def test_a_multiple_at_which_no_size_can_be_followed(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(UNetBySize), size_multiple=1)
    message = (
        r"needed height of at least 3 multiples, width of at least \d multiples, multiples being 1"
        r"\. Pass --size-multiple 2, or more; or fix --size HxW$"
    )
    with pytest.raises(ModuleError, match=message):
        export_module(request, tmp_path / "x.onnx")


def test_a_module_that_differs_from_itself_is_rejected(offer: Offer, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="the exported graph differs from the module itself"):
        export_module(ModuleRequest(factory=offer(With(Noise()))), tmp_path / "x.onnx", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["x.rejected.onnx"]


class BySixteens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] % 16 == 0 else x


def test_code_that_decides_by_sizes_is_caught_at_sizes_that_were_not_traced(
    offer: Offer, tmp_path: Path
) -> None:
    request = ModuleRequest(factory=offer(With(BySixteens())), size_multiple=4)
    message = r"differs only at other sizes .*larger --size-multiple.* in 8 of 9 cases: .*, 20x12: "
    with pytest.raises(ParityError, match=message):
        export_module(request, tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.rejected.onnx"]
