"""What cannot be exported is refused with what, where and why."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pconv_deploy.errors import CheckpointError, ModuleError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from pconv_deploy.export.modules.weights import load_weights
from tests.export.modules.conftest import Offer
from tests.export.modules.networks import PartialConv2d, UNet, make_unet

SMALL = ExportOptions(batch=1, size=(16, 16))


class OneInput(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


class MoreColours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = PartialConv2d(3, 5, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.layer(image, mask)
        return output


class Answers(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor, _mask: Tensor) -> Any:
        return self.answer(image)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OneInput(), r"forward takes \(image: .*Tensor\) -> .*; needed \(image, mask\)"),
        (Answers(lambda image: {"output": image}), "the module returns dict for an image"),
        (
            MoreColours(),
            r"^the module returns \[1, 5, 1, 1\] .*followed by its mask\. A subclass with such",
        ),
        (Answers(lambda image: image[:, :1]), r"returns \[1, 1, .*\] for an image of \[1, 3, "),
        (
            Answers(lambda _: 1 / 0),
            r"neither with a mask of 1 channel nor of 3, at sides of 1 to 2",
        ),
        (Answers(lambda _: 1 / 0), r"1: the module fails at 1024x1024: ZeroDivisionError"),
        (nn.Sequential(nn.LazyConv2d(3, 3)), "parameters without values"),
    ],
)
def test_modules_that_are_called_otherwise(
    offer: Offer, tmp_path: Path, module: nn.Module, message: str
) -> None:
    with pytest.raises(ModuleError, match=message):
        export_module(ModuleRequest(factory=offer(module)), tmp_path / "x.onnx")


def saved(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_weights_of_a_file_are_those_of_the_graph_and_the_module_is_not_changed(
    offer: Offer, unet: nn.Module, tmp_path: Path
) -> None:
    state = {f"module.{name}": t for name, t in unet.state_dict().items()}
    path = saved(tmp_path / "weights.pth", {"epoch": 3, "model": state})
    other = UNet()  # in training mode
    before, attributes = copy.deepcopy(other.state_dict()), set(vars(other.down1))
    request = ModuleRequest(factory=offer(other), weights=path)
    result = export_module(request, tmp_path / "x.onnx", SMALL)
    assert other.training
    assert set(vars(other.down1)) == attributes
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    own = export_module(ModuleRequest(factory=offer(unet)), tmp_path / "own.onnx", SMALL)
    assert result.parity.cases == own.parity.cases
    assert result.contract.source.file == "weights.pth"
    assert own.contract.source.file.endswith("networks:offered")
    assert own.contract.source.sha256 != result.contract.source.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down1.weight": None}, r"does not fit the module; missing: down1\.weight$"),
        ({"other.weight": torch.ones(1)}, r"unexpected: other\.weight$"),
        ({"down1.bias": torch.ones(7)}, r"down1\.bias: found \[7\], needed \[6\]"),
        ({"down1.bias": torch.full((6,), torch.nan)}, r"holds NaN or infinity in down1\.bias"),
        (
            {"down1.bias": torch.full((6,), 1e300, dtype=torch.float64)},
            r"NaN or infinity in down1\.bias",
        ),
        ({"down1.bias": torch.ones(6) * 1j}, r"of an unsupported type: down1\.bias"),
    ],
)
def test_weights_that_do_not_fit(
    unet: nn.Module, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {n: t for n, t in (unet.state_dict() | change).items() if t is not None}
    for name in ("weights.pth", "weights.safetensors"):
        with pytest.raises(CheckpointError, match=message):
            load_weights(UNet(), saved(tmp_path / name, state))


def test_weights_without_counts_of_batches_or_in_halves(unet: nn.Module, tmp_path: Path) -> None:
    state = {n: t.half() for n, t in unet.state_dict().items() if "num_batches" not in n}
    module = UNet()
    load_weights(module, saved(tmp_path / "weights.safetensors", state))
    loaded = module.state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Needed: the module's weights, of torch.save or as safetensors"),
        (b"\x80\x02cos\nsystem\n.", "is a Python pickle, which can run code"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them. Needed: the module's"),
        (b"PK\x03\x04 no archive", "is damaged"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_weights(UNet(), path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_weights(UNet(), path)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_weights(UNet(), tmp_path / "none.pth")


def test_a_factory_that_brings_nan(offer: Offer, unet: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        unet.get_parameter("norm2.bias")[3] = torch.inf
    with pytest.raises(ModuleError, match=r"offered holds NaN or infinity in norm2\.bias"):
        export_module(ModuleRequest(factory=offer(unet)), tmp_path / "x.onnx")


def test_usage(offer: Offer, tmp_path: Path) -> None:
    factory = offer(make_unet)
    with pytest.raises(UsageError, match="found size multiple 0; needed 1 to 1024"):
        export_module(ModuleRequest(factory=factory, size_multiple=0), tmp_path / "x.onnx")
    weights = tmp_path / "x.onnx"
    with pytest.raises(UsageError, match="holds the weights"):
        export_module(ModuleRequest(factory=factory, weights=weights), weights)
    weights.write_bytes(b"")
    with pytest.raises(UsageError, match="already exists"):
        export_module(ModuleRequest(factory=factory), weights)
    request = ModuleRequest(factory=factory, size_multiple=8)
    with pytest.raises(UsageError, match="needs multiples of 8"):
        export_module(request, tmp_path / "y.onnx", ExportOptions(size=(12, 16)))
