"""Convert another project's U-Net, expressed in our arithmetic, to our state dict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from pconv_deploy.contract import Family, Normalisation, UNetConfig
from pconv_deploy.errors import CheckpointError

_IMAGE_CHANNELS = 3
_NORM_EPS = 1e-5  # of every batch norm of ours


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Batch norm in evaluation mode: scale (x - mean) / sqrt(var + eps) + offset.

    Vectors (K,) float64.
    """

    scale: Tensor
    offset: Tensor
    mean: Tensor
    var: Tensor
    eps: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A partial convolution, y = (weight * x) area / known + bias, and the batch norm behind it.

    name    in the file
    weight  (K, C, kh, kw) float64; a decoder's doubled features first, then the skip connection
    bias    (K,) float64, or None
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    norm: Norm | None


@dataclass(frozen=True, kw_only=True)
class ForeignUNet:
    """A U-Net as another project stores it, its arithmetic already turned into ours.

    encoder, decoder  by level, outermost first
    head              tensors of `model.SigmoidHead` by name; empty for a linear head
    """

    family: Family
    normalisation: Normalisation
    encoder: Sequence[Stage]
    decoder: Sequence[Stage]
    head: Mapping[str, Tensor] = field(default_factory=dict)


def canonical_state(path: Path, unet: ForeignUNet) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Return the configuration and state dict of a `PConvUNet` that computes the same.

    Raises:
        CheckpointError: the layers do not follow on each other as in a U-Net.
    """
    config = _config(path, unet)
    widths = (_IMAGE_CHANNELS, *config.channels)
    state = {f"head.{name}": tensor for name, tensor in unet.head.items()}
    for level, (down, up) in enumerate(zip(unet.encoder, unet.decoder, strict=True)):
        kernel = config.kernels[level]
        _require_shape(path, down, (widths[level + 1], widths[level], kernel, kernel))
        _require_shape(path, up, (widths[level], widths[level + 1] + widths[level], 3, 3))
        state |= _named(f"encoder.{level}", down, biased=level == 0)
        # Ours counts decoder layers in the order they run.
        biased = level == 0 and not unet.head
        state |= _named(f"decoder.{config.levels - 1 - level}", up, biased=biased)
    return config, {n: t.float() if t.is_floating_point() else t for n, t in state.items()}


def _config(path: Path, unet: ForeignUNet) -> UNetConfig:
    facts = {
        "channels": [stage.weight.shape[0] for stage in unet.encoder],
        "kernels": [stage.weight.shape[-1] for stage in unet.encoder],
        "head": "sigmoid" if unet.head else "linear",
    }
    try:
        return msgspec.convert(facts, UNetConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path} is of {unet.family.name}, but {error}") from error


def _require_shape(path: Path, stage: Stage, needed: tuple[int, ...]) -> None:
    if tuple(stage.weight.shape) != needed:
        raise CheckpointError(
            f"{path}: {stage.name} has weights {list(stage.weight.shape)} (out, in, height, width);"
            f" {list(needed)} would follow on the layers around it"
        )
    norm = stage.norm
    vectors = [stage.bias, *((norm.scale, norm.offset, norm.mean, norm.var) if norm else ())]
    for vector in vectors:
        if vector is not None and tuple(vector.shape) != needed[:1]:
            raise CheckpointError(
                f"{path}: {stage.name}: bias or batch norm has shape {list(vector.shape)}, "
                f"needed {list(needed[:1])}"
            )
    if norm and bool((norm.var < 0).any()):
        raise CheckpointError(f"{path}: {stage.name}: a variance of its batch norm is negative")


def _named(place: str, stage: Stage, *, biased: bool) -> Iterator[tuple[str, Tensor]]:
    yield f"{place}.conv.weight", stage.weight
    zeros = stage.weight.new_zeros(stage.weight.shape[0])
    bias = zeros if stage.bias is None else stage.bias
    if biased:
        yield f"{place}.conv.bias", bias
    if norm := stage.norm:
        yield f"{place}.norm.weight", norm.scale
        yield f"{place}.norm.bias", norm.offset
        # (y + bias) - mean = y - (mean - bias), wherever the output is known.
        yield f"{place}.norm.running_mean", norm.mean - bias
        yield f"{place}.norm.running_var", norm.var + (norm.eps - _NORM_EPS)
        yield f"{place}.norm.num_batches_tracked", torch.zeros((), dtype=torch.int64)
