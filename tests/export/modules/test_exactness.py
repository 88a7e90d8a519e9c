"""Graphs of users' modules compute what the modules compute, with masks collapsed."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pconv_deploy.contract import Normalisation, UserModule
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, ExportResult
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from pconv_deploy.export.modules.enlargements import whole_multiple
from pconv_deploy.export.modules.trial import CalledModule
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.network import layers
from tests.export.modules.conftest import Offer
from tests.export.modules.networks import (
    Padding,
    PartialConv2d,
    Sequential,
    UNet,
    UNetBySize,
    randomised,
)

FREE, SMALL = ExportOptions(), ExportOptions(batch=3, size=(16, 24))  # the small one is fast


def nodes_of(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in read_graph(path).model.graph.node)


def exported(factory: str, path: Path, options: ExportOptions | None = None) -> ExportResult:
    result = export_module(ModuleRequest(factory=factory), path, options)
    assert not result.parity.failures()
    assert result.parity.worst_error is not None
    assert 0 < result.parity.worst_error < 1e-5
    assert result.parity.reference == "the module itself, PyTorch float64"
    return result


@pytest.mark.parametrize(("multi_channel", "options"), [(False, SMALL), (True, FREE)])
def test_a_unet(offer: Offer, tmp_path: Path, multi_channel: bool, options: ExportOptions) -> None:
    path = tmp_path / "unet.onnx"
    factory = offer(lambda: randomised(UNet(multi_channel=multi_channel)))
    contract = exported(factory, path, options).contract
    assert (contract.size_multiple, contract.size) == (
        (4, None) if multi_channel else (1, (16, 24))
    )
    assert contract.source.module == UserModule(
        factory=factory, mask_channels=3 if multi_channel else 1, partial_convolutions=4
    )
    nodes = nodes_of(path)
    assert nodes["Renormalise"] == 4
    assert nodes["PartialConv2d"] == nodes["BatchNormalization"] == 0


@pytest.mark.parametrize(
    ("size", "collapsed"),
    [
        (None, 4),
        (ExportOptions(batch=1, size=(15, 24)), 3),  # 8 rows to 15 is no whole factor
    ],
)
def test_a_unet_that_enlarges_to_a_size(
    offer: Offer, tmp_path: Path, size: ExportOptions | None, collapsed: int
) -> None:
    path = tmp_path / "sizes.onnx"
    factory = offer(lambda: randomised(UNetBySize()))
    # Every size suits it, but of 4 n alone is it known that it enlarges by 2.
    assert exported(factory, path, size).contract.size_multiple == (1 if size else 4)
    nodes = nodes_of(path)
    assert nodes["Renormalise"] == collapsed
    assert nodes["PartialConv2d"] == nodes["BatchNormalization"] == 4 - collapsed


def test_sizes_that_torch_export_can_follow_are_found(offer: Offer, tmp_path: Path) -> None:
    class LargeInFours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = PartialConv2d(3, 3, 3, padding=1)

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            output: Tensor = self.layer(image, mask)
            return output * 2 if image.shape[2] % 4 == 0 or image.shape[2] < 4 else output

    said: list[str] = []
    request = ModuleRequest(factory=offer(LargeInFours))
    result = export_module(request, tmp_path / "fours.onnx", progress=said.append)
    assert result.contract.size_multiple == 4
    (tried,) = (step for step in said if "trying multiples" in step)
    assert tried.endswith("height of 4 multiples, multiples being 1; trying multiples of 4")


def test_whole_factors() -> None:
    class ByValues(UNetBySize):
        def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(image if float(image.sum()) >= 0 else -image, mask)

    for module, found in ((UNetBySize(), 4), (UNet(), 1), (Padding(), 1), (ByValues(), 1)):
        assert whole_multiple(lambda module=module: CalledModule(module, 3), 1) == found  # type: ignore[misc]
    assert whole_multiple(lambda: CalledModule(UNetBySize(), 3), 3) == 12


@pytest.mark.parametrize(
    ("module", "layers", "options"),
    [
        (Sequential(return_mask=True), 3, SMALL),
        (Sequential(multi_channel=True), 3, FREE),
        (Padding(), 2, SMALL),
    ],
    ids=["one mask", "a mask of each channel", "padding"],
)
def test_layers_in_a_row(
    offer: Offer, tmp_path: Path, module: nn.Module, layers: int, options: ExportOptions
) -> None:
    contract = exported(offer(randomised(module)), tmp_path / "row.onnx", options).contract
    assert contract.size_multiple == 1
    nodes = nodes_of(tmp_path / "row.onnx")
    assert nodes["Renormalise"] == layers
    assert nodes["PartialConv2d"] == 0


def test_a_fixed_size(offer: Offer, tmp_path: Path) -> None:
    class OneSize(Padding):
        def __init__(self) -> None:
            super().__init__(multi_channel=True)

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            assert image.shape[2:] == (16, 24)
            return super().forward(image, mask)

    contract = exported(offer(OneSize), tmp_path / "fixed.onnx", SMALL).contract
    assert contract.size == (16, 24)
    assert contract.size_multiple == 1


def test_one_input_channel(offer: Offer, tmp_path: Path) -> None:
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            named: dict[str, Any] = {"multi_channel": True, "return_mask": True, "padding": 1}
            self.first = PartialConv2d(1, 4, 3, **named)
            self.last = PartialConv2d(4, 3, 3, **named)

        def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            result: tuple[Tensor, Tensor] = self.last(*self.first(image[:, :1], mask))
            return result

    contract = exported(offer(Grey()), tmp_path / "grey.onnx", SMALL).contract
    assert contract.source.module is not None
    assert contract.source.module.mask_channels == 1


def test_our_layer_inside_of_a_users_module(offer: Offer, tmp_path: Path) -> None:
    class Ours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = layers.PartialConv2d(3, 4, 3, padding=1)
            self.last = layers.PartialConv2d(4, 3, 3, padding=1)

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            y, known = self.last(*self.first(image, mask))
            return torch.cat([y, known], 1)[:, :3]

    contract = exported(offer(Ours), tmp_path / "ours.onnx", SMALL).contract
    assert contract.source.module is not None
    assert contract.source.module.partial_convolutions == 2
    assert nodes_of(tmp_path / "ours.onnx")["Renormalise"] == 2


def test_parametrised_weights_and_hooks_of_one_layer_alone_stay(
    offer: Offer, tmp_path: Path
) -> None:
    layer = PartialConv2d(3, 3, 3, padding=1)
    nn.utils.parametrizations.weight_norm(layer)
    layer.register_forward_hook(lambda _layer, _inputs, output: output * 2 + 1)
    exported(offer(layer), tmp_path / "hooked.onnx", SMALL)


def test_holes_are_not_read_and_the_normalisation_is_the_given_one(
    offer: Offer, unet: nn.Module, tmp_path: Path
) -> None:
    normalisation = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    request = ModuleRequest(factory=offer(unet), normalisation=normalisation, size_multiple=8)
    options = ExportOptions(kind="tensor", batch=1, size=(16, 8))
    result = export_module(request, tmp_path / "x.onnx", options)
    assert not result.parity.failures()
    assert result.contract.normalisation == normalisation
    assert result.contract.size_multiple == 8
    rng = np.random.default_rng(0)
    image = rng.random((1, 3, 16, 8), np.float32)
    hole = np.zeros((1, 1, 16, 8), np.float32)
    hole[..., 3:9, 2:6] = 1
    other = np.where(hole == 1, np.float32(0.7), image)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    one, two = (session.run(None, {"image": i, "hole_mask": hole})[0] for i in (image, other))
    np.testing.assert_array_equal(one, two)
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (normalisation.mean, normalisation.std)
    )
    known = torch.from_numpy(1 - hole).double()
    with torch.no_grad():
        normalised = (torch.from_numpy(image).double() - mean) / std
        output, _ = unet.double().eval()(normalised * known, known.expand(-1, 3, -1, -1))
    np.testing.assert_allclose(one, (output * std + mean).numpy(), rtol=0, atol=1e-5)
