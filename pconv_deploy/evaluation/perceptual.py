"""LPIPS, FID and the Inception score, if the weights of their networks are given.

Nothing is downloaded: every file of weights is given, and checked by its hash.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_deploy.errors import InputError
from pconv_deploy.evaluation.inception import FEATURES, InceptionV3
from pconv_deploy.evaluation.weights import WeightFiles
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.training.vgg import Vgg16Features, checked_weights, load_vgg16

INCEPTION_SHA256_PREFIX = "6726825d"
# lpips 0.1.4, weights/v0.1/vgg.pth; torchmetrics ships the same file.
LPIPS_SHA256_PREFIX = "a78928a0"
_STAGES = 5


class Lpips(nn.Module):
    """Distance of pictures by their VGG-16 features (Zhang et al. 2018, version 0.1, "lin").

    Per stage, with f, g the features before the pooling at unit length in every place and w the
    learned weights of the channels: mean over the places of sum_c w_c (f_c - g_c)^2. Summed over
    the five stages.

    first, second (N, 3, H, W) float, RGB in 0..1 -> (N,)
    """

    def __init__(self, vgg: Vgg16Features, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.vgg, self.heads = vgg, heads

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        x = (torch.cat([first, second]) - self.vgg.mean) / self.vgg.std
        total, stage = torch.zeros(len(first), dtype=x.dtype), 0
        for layer in self.vgg.features:
            if isinstance(layer, nn.MaxPool2d):
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                squares = (unit[: len(first)] - unit[len(first) :]).square()
                total = total + (squares * self.heads[stage]).sum(1).mean((1, 2))
                stage += 1
            if stage < _STAGES:
                x = layer(x)
        return total


class Perceptual:
    """The networks for which weights were given.

    Raises:
        InputError: a file is missing, of another network, or damaged.
    """

    def __init__(self, files: WeightFiles) -> None:
        self._lpips = self._inception = None
        if files.vgg16 is not None:
            assert files.lpips_heads is not None, "`located` finds them"
            self._lpips = Lpips(load_vgg16(files.vgg16, _STAGES), load_heads(files.lpips_heads))
        if files.inception is not None:
            self._inception = load_inception(files.inception)

    def lpips(self, filled: Bytes, original: Bytes) -> float | None:
        """LPIPS of one picture (H, W, 3) against another."""
        if self._lpips is None:
            return None
        with torch.inference_mode():
            return float(self._lpips(_tensor(filled) / 255, _tensor(original) / 255))

    def features(self, picture: Bytes) -> bytes | None:
        """Inception's features and logits of one picture, as `as_features` reads them."""
        if self._inception is None:
            return None
        with torch.inference_mode():
            return torch.cat(self._inception(_tensor(picture)), 1).numpy().astype("<f4").tobytes()


def _tensor(picture: Bytes) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def load_heads(path: Path) -> list[Tensor]:
    """LPIPS's weights of the channels of VGG-16's stages, each (C, 1, 1).

    Raises:
        InputError: missing, damaged, or another file.
    """
    weights = checked_weights(path, LPIPS_SHA256_PREFIX, "lpips' weights/v0.1/vgg.pth")
    needed = {f"lin{i}.model.1.weight": c for i, c in enumerate((64, 128, 256, 512, 512))}
    _compare_shapes(path, weights, {name: (1, c, 1, 1) for name, c in needed.items()})
    return [weights[name][0] for name in needed]


def load_inception(path: Path) -> InceptionV3:
    """Inception-v3 of FID.

    Raises:
        InputError: missing, damaged, or another file.
    """
    wanted = "pt_inception-2015-12-05-6726825d.pth (of pytorch-fid or torch-fidelity)"
    weights = checked_weights(path, INCEPTION_SHA256_PREFIX, wanted)
    network = InceptionV3()
    # Files older than PyTorch 0.4.1 do not count batches, and nothing here reads the count.
    needed = {n: t for n, t in network.state_dict().items() if not n.endswith("batches_tracked")}
    _compare_shapes(path, weights, {name: tuple(t.shape) for name, t in needed.items()})
    network.load_state_dict({name: weights[name] for name in needed}, strict=False)
    return network


def _compare_shapes(
    path: Path, weights: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in needed.items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            raise InputError(
                f"{path} is of another network: {name}: found {found or 'nothing'}, needed {shape}"
            )


def as_features(stored: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pictures' features (N, 2048) and logits (N, 1008) from what `Perceptual.features` gave."""
    both = np.frombuffer(b"".join(stored), "<f4").reshape(len(stored), -1).astype(np.float64)
    return both[:, :FEATURES], both[:, FEATURES:]


def frechet_distance(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """FID (Heusel et al. 2017) of two sets of features (N, D); None of fewer than two pictures.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) with means m and covariances S. Written
    S1 = A'A and S2 = B'B, the eigenvalues of S1 S2 are the squares of the singular values of
    AB', so no root of an ill-conditioned matrix is taken.
    """
    if min(len(first), len(second)) < 2:
        return None
    a, b = _root_of_covariance(first), _root_of_covariance(second)
    between = np.square(first.mean(0) - second.mean(0)).sum()
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(between + np.square(a).sum() + np.square(b).sum() - 2 * shared)


def _root_of_covariance(features: NDArray[Any]) -> NDArray[np.float64]:
    """A with A'A the covariance, of at most D rows."""
    root: NDArray[np.float64] = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(root).R if len(root) > root.shape[1] else root


def inception_score(logits: NDArray[Any]) -> float | None:
    """Inception score (Salimans et al. 2016) of logits (N, classes), in one split.

    exp of the mean over the pictures of KL(p(class | picture) || p(class)); 1 at least. None
    without pictures.
    """
    if not len(logits):
        return None
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()))
