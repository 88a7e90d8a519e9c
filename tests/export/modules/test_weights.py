"""A module's weights are found wherever a file has them; several sets are a question."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pconv_deploy.errors import CheckpointError
from pconv_deploy.export.modules.weights import load_weights
from pconv_deploy.files import sha256_of
from pconv_deploy.held_file import HeldFile
from tests.checkpoints.foreign.wrappings import ALONE, SEVERAL, averaged, named
from tests.export.modules.networks import UNet


class Around(nn.Module):
    """What users write to change how their network is called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def holds(module: nn.Module, state: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items())


# Every way is tried in tests/checkpoints/foreign/test_tensor_tree.py; these depend on the module.
WAYS = ("both", "layers compiled", "with an optimiser", "flat, with an optimiser", "Lightning",
        "AveragedModel", "thop", "numbers beside")  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_one_set_of_weights_is_found(unet: nn.Module, tmp_path: Path, way: str) -> None:
    key, wrap = ALONE[way]
    path = tmp_path / "weights.pth"
    torch.save(wrap(unet.state_dict()), path)
    module = UNet()
    loaded = load_weights(module, path)
    assert holds(module, unet.state_dict())
    assert loaded.key == key
    assert loaded.sha256 == sha256_of(path)


@pytest.mark.parametrize("way", ["BasicSR", "the average inside"])
def test_several_sets_are_a_question(unet: nn.Module, tmp_path: Path, way: str) -> None:
    keys, wrap = SEVERAL[way]
    path, state = tmp_path / "weights.pth", unet.state_dict()
    torch.save(wrap(state), path)
    module = UNet()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match="holds 2 sets of weights that fit: ") as caught:
        load_weights(module, path)
    assert holds(module, before)
    for key, wanted in zip(keys, (state, averaged(state)), strict=True):
        assert key in str(caught.value)
        load_weights(module, path, key)
        assert holds(module, wanted)


@pytest.mark.parametrize("prefix", ["", "network.", "generator.", "module."])
def test_the_network_that_a_module_wraps(unet: nn.Module, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(named(prefix, unet.state_dict()), path)
    module = Around(UNet())
    load_weights(module, path)
    assert holds(module.network, dict(unet.state_dict()))


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_modules_that_are_wrapped_themselves(unet: nn.Module, tmp_path: Path, wrapper: str) -> None:
    torch.save(unet.state_dict(), tmp_path / "weights.pth")
    module = nn.ModuleDict({wrapper: UNet()})  # as DataParallel's and torch.compile's state dict
    load_weights(module, tmp_path / "weights.pth")
    assert holds(module, named(f"{wrapper}.", unet.state_dict()))


def test_parts_in_dictionaries_of_their_own(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 2)})

    torch.manual_seed(1)
    trained = make()
    parts = {name: part.state_dict() for name, part in trained.items()}  # type: ignore[operator]
    critic = {"weight": torch.ones(7)}
    torch.save({**parts, "critic": critic, "epoch": 3}, tmp_path / "weights.pth")
    module = make()
    assert load_weights(module, tmp_path / "weights.pth").key is None
    assert holds(module, trained.state_dict())


def test_of_what_does_not_fit_only_what_is_near_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"down1.bias": torch.ones(6)}, "optimizer": {"w": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"does not fit the module; missing: [^;]*$"):
        load_weights(UNet(), path)


def test_kernels_of_ones_that_sum_masks_may_be_stored_or_not(
    unet: nn.Module, tmp_path: Path
) -> None:
    path, state = tmp_path / "weights.pth", unet.state_dict()
    torch.save({**state, "down1.weight_maskUpdater": torch.ones(6, 3, 5, 5)}, path)
    load_weights(UNet(), path)
    torch.save({**state, "down1.weight_maskUpdater": torch.zeros(6, 3, 5, 5)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected: down1\.weight_maskUpdater"):
        load_weights(UNet(), path)
    storing = UNet()
    storing.down1.register_buffer("weight_mask_updater", torch.ones(6, 3, 5, 5))
    torch.save(state, path)
    load_weights(storing, path)


def test_the_hash_is_of_the_file_that_was_loaded(
    unet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "weights.pth", tmp_path / "other.pth"
    torch.save(unet.state_dict(), path)
    torch.save(averaged(unet.state_dict()), other)
    sha256 = sha256_of(path)
    hashed = HeldFile.sha256

    def swapped(file: HeldFile) -> str:
        os.replace(other, file.path)
        return hashed(file)

    monkeypatch.setattr(HeldFile, "sha256", swapped)
    module = UNet()
    assert load_weights(module, path).sha256 == sha256
    assert holds(module, unet.state_dict())
