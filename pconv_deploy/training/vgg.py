"""VGG-16 features for the perceptual and style losses (Liu et al. 2018, eq. 3-5) and for LPIPS.

The losses use the first three stages, LPIPS all five. The weights are torchvision's, read from a
local file; torchvision itself is not needed.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pconv_deploy.errors import InputError
from pconv_deploy.files import reading
from pconv_deploy.held_file import held_file

# torchvision names the file after the first digits of its SHA-256.
VGG16_FILE = "vgg16-397923af.pth"
VGG16_SHA256_PREFIX = "397923af"
# Output channels of the convolutions before each pooling.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg16Features(nn.Module):
    """Feature maps after the first `stages` pooling layers, at most five.

    image (N, 3, H, W) float, RGB in 0..1 -> the maps: (N, 64, H/2, W/2), (N, 128, H/4, W/4),
    (N, 256, H/8, W/8), ... The image is normalised as VGG-16 was trained. Parameters are frozen.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES[:stages]:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)  # same indices as torchvision
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None], persistent=False)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = (image - self.mean) / self.std, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps


def load_vgg16(path: Path | str, stages: int = 3) -> Vgg16Features:
    """Load torchvision's ImageNet weights, checked by hash, without running code in the file.

    Raises:
        InputError: missing, not torchvision's file, or damaged.
    """
    path, wanted = Path(path), f"torchvision's {VGG16_FILE}"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist. Needed: {wanted} (its VGG16_Weights.IMAGENET1K_V1)"
        )
    weights = checked_weights(path, VGG16_SHA256_PREFIX, wanted)
    return vgg16_from(weights, stages)


def checked_weights(path: Path, sha256_prefix: str, wanted: str) -> Mapping[str, Tensor]:
    """Load a weights file after checking its SHA-256, without running code in the file.

    The file is opened once, so that replacing it in between has no effect.

    Raises:
        InputError: missing, not the file `wanted`, or damaged.
    """
    with reading(path), held_file(path) as file:
        found = file.sha256()
        if not found.startswith(sha256_prefix):
            raise InputError(
                f"{path} is not {wanted}: its SHA-256 begins with {found[:8]}, "
                f"needed {sha256_prefix}"
            )
        file.stream.seek(0)
        try:
            weights: Mapping[str, Tensor] = torch.load(
                file.stream, map_location="cpu", weights_only=True
            )
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}") from error
    return weights


def vgg16_from(weights: Mapping[str, Tensor], stages: int = 3) -> Vgg16Features:
    """Load weights by torchvision's names (`features.0.weight`, ...); ignore other tensors.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    vgg = Vgg16Features(stages)
    needed = vgg.state_dict()
    for name, tensor in needed.items():
        given = weights.get(name)
        if given is None or given.shape != tensor.shape:
            what = "nothing" if given is None else list(given.shape)
            raise InputError(
                f"not VGG-16's weights: {name}: found {what}, needed {list(tensor.shape)}"
            )
    vgg.load_state_dict({name: weights[name] for name in needed})
    return vgg
