import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_deploy.errors import InputError
from pconv_deploy.training import vgg
from pconv_deploy.training.vgg import Vgg16Features, load_vgg16, vgg16_from

# torchvision's numbering: convolutions at these places, pooling after 2, 7 and 14.
CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256),
                12: (256, 256), 14: (256, 256)}  # fmt: skip


def torchvision_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {"classifier.0.weight": torch.zeros(1)}
    for place, (before, after) in CONVOLUTIONS.items():
        weights[f"features.{place}.weight"] = torch.randn(
            after, before, 3, 3, generator=generator
        ) / (3 * before**0.5)
        weights[f"features.{place}.bias"] = torch.randn(after, generator=generator)
    return weights


def test_maps_are_those_after_the_first_three_poolings() -> None:
    weights = torchvision_weights()
    image = torch.rand(2, 3, 32, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = (image - mean[:, None, None]) / std[:, None, None], []
    for place in CONVOLUTIONS:
        x = F.conv2d(x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"],
                     padding=1).relu()  # fmt: skip
        if place in (2, 7, 14):
            x = F.max_pool2d(x, 2)
            expected.append(x)
    found = vgg16_from(weights)(image)
    assert [tuple(m.shape) for m in found] == [(2, 64, 16, 24), (2, 128, 8, 12), (2, 256, 4, 6)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_is_frozen_but_lets_gradients_through() -> None:
    network = vgg16_from(torchvision_weights())
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(image)[2].sum().backward()
    assert image.grad is not None
    assert not any(p.requires_grad for p in network.parameters())


def test_weights_of_another_network() -> None:
    weights = torchvision_weights()
    weights["features.5.weight"] = torch.zeros(1, 2)
    with pytest.raises(InputError, match=r"features\.5\.weight: found \[1, 2\], needed \[128, 64"):
        vgg16_from(weights)
    with pytest.raises(InputError, match=r"features\.0\.weight: found nothing"):
        vgg16_from({})


def test_the_file_is_checked_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    with pytest.raises(InputError, match=r"does not exist.*VGG16_Weights\.IMAGENET1K_V1"):
        load_vgg16(path)
    torch.save(torchvision_weights(), path)
    with pytest.raises(InputError, match=r"is not torchvision's vgg16-397923af\.pth: its SHA-256"):
        load_vgg16(path)


def test_code_in_the_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = tmp_path / "pwned"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(witness),)

    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": Bomb()}, path)
    monkeypatch.setattr(vgg, "VGG16_SHA256_PREFIX", "")
    with pytest.raises(InputError, match="is damaged"):
        load_vgg16(path)
    assert not witness.exists()
    torch.save(torchvision_weights(), path)
    assert isinstance(load_vgg16(path), Vgg16Features)
