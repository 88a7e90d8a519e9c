"""Traits of public networks, each in a small network of our own: all are exported untouched."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_deploy.errors import ParityError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, ExportResult
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from pconv_deploy.export.modules.factory import make_module
from pconv_deploy.graphs.file import read_graph
from tests.export.modules.conftest import Offer
from tests.export.modules.networks import PartialConv2d, UNet, randomised

SMALL = ExportOptions(batch=1, size=(16, 24))


def exported(offer: Offer, module: nn.Module, path: Path) -> ExportResult:
    result = export_module(ModuleRequest(factory=offer(module)), path, SMALL)
    assert not result.parity.failures()
    return result


class Frozen(UNet):
    """Freezes batch norms, and returns nothing."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm2.eval()


def test_methods_that_return_nothing(offer: Offer) -> None:
    assert not make_module(offer(Frozen())).training


class OwnTrain(Frozen):
    """Its training loop calls these."""

    def train(self) -> Any:  # type: ignore[override]
        super().train(True)

    def eval(self, verbose: bool) -> Any:  # type: ignore[override]
        raise AssertionError(verbose)


def test_methods_that_take_other_arguments(offer: Offer, tmp_path: Path) -> None:
    network = randomised(Frozen())
    network.__class__ = OwnTrain
    exported(offer, network, tmp_path / "x.onnx")


class AlwaysTraining(UNet):
    def train(self, _mode: bool = True) -> Any:
        super().train(True)


def test_parts_that_stay_in_training_mode_are_named(offer: Offer, tmp_path: Path) -> None:
    said: list[str] = []
    request = ModuleRequest(factory=offer(AlwaysTraining()))
    with pytest.raises(ParityError):
        export_module(request, tmp_path / "x.onnx", SMALL, progress=said.append)
    assert any("leaves parts in training mode after eval(): " in line for line in said)
    assert any("norm2" in line for line in said)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("norm", "called_before"),
    [
        (nn.utils.spectral_norm, True),  # the weights of old hooks have a history then
        (nn.utils.weight_norm, False),
        (nn.utils.parametrizations.weight_norm, True),
    ],
)
def test_norms_of_weights(offer: Offer, tmp_path: Path, norm: Any, called_before: bool) -> None:
    network = randomised(UNet())
    for layer in list(network.children()):
        if isinstance(layer, PartialConv2d):
            norm(layer)
    if called_before:
        network(torch.ones(1, 3, 16, 24), torch.ones(1, 3, 16, 24))
    result = exported(offer, network, tmp_path / "x.onnx")
    assert result.contract.source.module is not None
    assert result.contract.source.module.partial_convolutions == 4
    # Computed once, so that the layers have weights to rewrite.
    model = read_graph(tmp_path / "x.onnx").model
    weights = {tensor.name for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type.startswith("Conv")]
    assert len(convolutions) >= 4
    assert all(node.input[1] in weights for node in convolutions)


class Counting(nn.Module):
    """Convolves its mask apart, in single precision whatever it is given; 1e-8 is not 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.ones = torch.ones(1, 1, 3, 3)  # no buffer

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = F.conv2d(mask, self.ones, padding=1)
        known = (seen > 0).float()
        scale = torch.full((1,), 9.0, dtype=torch.float32) / (seen + 1e-8)
        return self.conv((x * mask).float()) * scale * known, known


class OwnLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Counting(3, 4), Counting(4, 3)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.last(*self.first(image, mask))[0]
        return output


class SingleAlone(OwnLayers):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        assert image.dtype == torch.float32
        return super().forward(image, mask)


def test_casts_to_single_precision(offer: Offer, tmp_path: Path) -> None:
    result = exported(offer, OwnLayers(), tmp_path / "x.onnx")
    assert result.parity.reference == "the module itself, PyTorch float64"
    assert result.parity.worst_error is not None
    assert 0 < result.parity.worst_error < 1e-5


def test_code_that_refuses_double_precision(offer: Offer, tmp_path: Path) -> None:
    result = exported(offer, SingleAlone(), tmp_path / "x.onnx")
    assert result.parity.reference == "the module itself, PyTorch float32"
    # How far rounding goes shows all the same.
    assert any(case.reference_error for case in result.parity.cases)


class DividesByZero(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image / mask


def test_a_network_that_returns_nan_is_told_so(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(DividesByZero()))
    with pytest.raises(ParityError, match=r"returns NaN.* The network itself does so in PyTorch"):
        export_module(request, tmp_path / "x.onnx", SMALL)


class NanInGraphsAlone(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return image / mask
        return image * mask


def test_nan_of_the_graph_alone_is_a_fault_of_the_export(offer: Offer, tmp_path: Path) -> None:
    request = ModuleRequest(factory=offer(NanInGraphsAlone()))
    with pytest.raises(ParityError, match="finite numbers in PyTorch, so this is a fault of"):
        export_module(request, tmp_path / "x.onnx", SMALL)
