"""Inception-v3 as FID and the Inception score use it, without torchvision.

The network of 2015-12-05 that TensorFlow's scores were made with, which differs from
torchvision's in its pooling. Tensor names and function are those of torch-fidelity's and
pytorch-fid's file `*inception-2015-12-05-6726825d.pth`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INCEPTION_SIDE = 299
FEATURES, CLASSES = 2048, 1008

# Output channels, kernel (height, width), stride. Without stride the size stays.
_Conv = tuple[int, tuple[int, int], int]
# Names of layers one after the other; a tuple of names: side by side, joined.
_Chain = Sequence[str | tuple[str, str]]
# Steps of a chain that are no layers.
_POOLS = {
    "average": lambda x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False),
    "greatest": lambda x: F.max_pool2d(x, 3, 1, padding=1),
    "halve": lambda x: F.max_pool2d(x, 3, 2),
}


class InceptionV3(nn.Module):
    """pictures (N, 3, H, W) uint8 -> features (N, 2048), logits without bias (N, 1008)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNormReLU(3, (32, (3, 3), 2))
        self.Conv2d_2a_3x3 = _ConvNormReLU(32, (32, (3, 3), 1), padded=False)
        self.Conv2d_2b_3x3 = _ConvNormReLU(32, (64, (3, 3), 1))
        self.Conv2d_3b_1x1 = _ConvNormReLU(64, (80, (1, 1), 1))
        self.Conv2d_4a_3x3 = _ConvNormReLU(80, (192, (3, 3), 1), padded=False)
        self.Mixed_5b = _mixed_a(192, 32)
        self.Mixed_5c = _mixed_a(256, 64)
        self.Mixed_5d = _mixed_a(288, 64)
        self.Mixed_6a = _mixed_b()
        self.Mixed_6b = _mixed_c(128)
        self.Mixed_6c = _mixed_c(160)
        self.Mixed_6d = _mixed_c(160)
        self.Mixed_6e = _mixed_c(192)
        self.Mixed_7a = _mixed_d()
        self.Mixed_7b = _mixed_e(1280, "average")
        self.Mixed_7c = _mixed_e(2048, "greatest")
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = (resized_like_tensorflow(pictures.to(self.fc.weight.dtype)) - 128) / 128
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = F.max_pool2d(x, 3, 2)
            if name != "fc":
                x = layer(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def resized_like_tensorflow(x: Tensor, side: int = INCEPTION_SIDE) -> Tensor:
    """Bilinear as TensorFlow 1 does it: pixel i of the result lies at i * before / after."""
    for axis in (2, 3):
        before = x.shape[axis]
        at = torch.arange(side, dtype=x.dtype) * (before / side)
        low = at.long()
        share = (at - low).reshape((-1, 1) if axis == 2 else (1, -1))
        first = x.index_select(axis, low)
        second = x.index_select(axis, (low + 1).clamp(max=before - 1))
        x = first + (second - first) * share
    return x


class _ConvNormReLU(nn.Module):
    def __init__(self, channels: int, conv: _Conv, *, padded: bool = True) -> None:
        super().__init__()
        out, kernel, stride = conv
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Chains of layers side by side, their outputs joined."""

    def __init__(self, channels: int, convs: Mapping[str, _Conv], chains: Sequence[_Chain]) -> None:
        super().__init__()
        self.chains = chains
        for chain in chains:
            width = channels
            for step in chain:
                names = (step,) if isinstance(step, str) else step
                for name in names:
                    if name not in _POOLS:
                        self.add_module(name, _ConvNormReLU(width, convs[name]))
                width = sum(convs[name][0] for name in names) if names[0] in convs else width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._follow(chain, x) for chain in self.chains], 1)

    def _follow(self, chain: _Chain, x: Tensor) -> Tensor:
        for step in chain:
            if isinstance(step, tuple):
                x = torch.cat([self.get_submodule(name)(x) for name in step], 1)
            else:
                x = _POOLS[step](x) if step in _POOLS else self.get_submodule(step)(x)
        return x


def _mixed_a(channels: int, pooled: int) -> _Mixed:
    convs = {
        "branch1x1": (64, (1, 1), 1),
        "branch5x5_1": (48, (1, 1), 1),
        "branch5x5_2": (64, (5, 5), 1),
        "branch3x3dbl_1": (64, (1, 1), 1),
        "branch3x3dbl_2": (96, (3, 3), 1),
        "branch3x3dbl_3": (96, (3, 3), 1),
        "branch_pool": (pooled, (1, 1), 1),
    }
    chains = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ("average", "branch_pool"),
    )
    return _Mixed(channels, convs, chains)


def _mixed_b() -> _Mixed:
    convs = {
        "branch3x3": (384, (3, 3), 2),
        "branch3x3dbl_1": (64, (1, 1), 1),
        "branch3x3dbl_2": (96, (3, 3), 1),
        "branch3x3dbl_3": (96, (3, 3), 2),
    }
    doubled = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return _Mixed(288, convs, (("branch3x3",), doubled, ("halve",)))


def _mixed_c(inner: int) -> _Mixed:
    row, column = (1, 7), (7, 1)
    convs = {
        "branch1x1": (192, (1, 1), 1),
        "branch7x7_1": (inner, (1, 1), 1),
        "branch7x7_2": (inner, row, 1),
        "branch7x7_3": (192, column, 1),
        "branch7x7dbl_1": (inner, (1, 1), 1),
        "branch7x7dbl_2": (inner, column, 1),
        "branch7x7dbl_3": (inner, row, 1),
        "branch7x7dbl_4": (inner, column, 1),
        "branch7x7dbl_5": (192, row, 1),
        "branch_pool": (192, (1, 1), 1),
    }
    chains = (
        ("branch1x1",),
        tuple(f"branch7x7_{i}" for i in range(1, 4)),
        tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
        ("average", "branch_pool"),
    )
    return _Mixed(768, convs, chains)


def _mixed_d() -> _Mixed:
    convs = {
        "branch3x3_1": (192, (1, 1), 1),
        "branch3x3_2": (320, (3, 3), 2),
        "branch7x7x3_1": (192, (1, 1), 1),
        "branch7x7x3_2": (192, (1, 7), 1),
        "branch7x7x3_3": (192, (7, 1), 1),
        "branch7x7x3_4": (192, (3, 3), 2),
    }
    chains = (
        ("branch3x3_1", "branch3x3_2"),
        tuple(f"branch7x7x3_{i}" for i in range(1, 5)),
        ("halve",),
    )
    return _Mixed(768, convs, chains)


def _mixed_e(channels: int, pool: str) -> _Mixed:
    convs = {
        "branch1x1": (320, (1, 1), 1),
        "branch3x3_1": (384, (1, 1), 1),
        "branch3x3_2a": (384, (1, 3), 1),
        "branch3x3_2b": (384, (3, 1), 1),
        "branch3x3dbl_1": (448, (1, 1), 1),
        "branch3x3dbl_2": (384, (3, 3), 1),
        "branch3x3dbl_3a": (384, (1, 3), 1),
        "branch3x3dbl_3b": (384, (3, 1), 1),
        "branch_pool": (192, (1, 1), 1),
    }
    chains = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
        (pool, "branch_pool"),
    )
    return _Mixed(channels, convs, chains)
