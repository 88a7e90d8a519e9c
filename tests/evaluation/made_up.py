"""Weights of the right names and shapes that no network was trained with."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pconv_deploy.evaluation.inception import InceptionV3
from pconv_deploy.training.vgg import Vgg16Features

LPIPS_CHANNELS = (64, 128, 256, 512, 512)


def inception_weights() -> dict[str, Tensor]:
    """Deterministic; signals neither fade nor grow on their way."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in sorted(InceptionV3().state_dict().items()):
        shape = tuple(tensor.shape)
        if name.endswith("batches_tracked"):
            continue
        values: NDArray[Any] = rng.standard_normal(shape, np.float32)
        if name.endswith(("running_var", "bn.weight")):
            values = 1 + np.abs(values) / np.float32(4)
        elif len(shape) > 1:
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            values /= np.float32(4)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def vgg16_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in Vgg16Features(5).state_dict().items():
        scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
        weights[name] = torch.randn(tensor.shape, generator=generator) * scale
    return weights


def lpips_heads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for i, channels in enumerate(LPIPS_CHANNELS)
    }
