"""Read MathiasGruber/PConv-Keras, files of `save_weights`, with h5py alone.

Its layer differs from ours in four ways. The ratio is window / known with `known` summed over all
channels, so its weights are ours times the number of channels. Concatenation puts the skip
connection first. Every layer has a bias, added in holes too; the next layer masks them away, so
only the last layer's shows, and the sigmoid head adds it. Batch norm has Keras' epsilon; that of
the encoder is taken in evaluation mode, as the project's `train_bn=False`.

Keras numbers layers through a whole session (p_conv2d_17 may be the first), so numbers give the
order and nothing else.
"""

import re
from collections.abc import Collection

import torch

from pconv_deploy.checkpoints.foreign.canonical import ForeignUNet, Norm, Stage
from pconv_deploy.checkpoints.foreign.weights import Weights, list_names
from pconv_deploy.contract import Family, Normalisation
from pconv_deploy.errors import CheckpointError

FAMILY = Family(name="pconv-keras", mask_convention="hole-black", mask_scaling=None)
_NORMALISATION = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_NORM_EPS = 1e-3  # Keras' default
_KERNEL = "img_kernel"
_NORM_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")
_ENCODER_NORM = re.compile(r"EncBN\d+")


def recognises(names: Collection[str]) -> bool:
    """Return whether any name is that of its layer's weights."""
    return bool(_layers(names, _KERNEL))


def read(weights: Weights) -> ForeignUNet:
    """Check names, kinds and numbers; turn the arithmetic into ours.

    Raises:
        CheckpointError: with missing or unexpected tensors, or not finite.
    """
    convs, norms = _layers(weights.names, _KERNEL), _layers(weights.names, "gamma")
    encoder_norms = [layer for layer in norms if _ENCODER_NORM.fullmatch(layer)]
    decoder_norms = [layer for layer in norms if layer not in encoder_norms]
    heads = _layers(weights.names, "kernel")
    levels = len(convs) // 2
    counts = (len(convs) % 2, len(encoder_norms), len(decoder_norms), len(heads))
    if counts != (0, levels - 1, levels - 1, 1):
        raise CheckpointError(
            f"{weights.path} looks like a network of {FAMILY.name}, but has {len(convs)} partial "
            f"convolutions ({list_names(convs)}), {len(encoder_norms)} batch norms of the encoder "
            f"({list_names(encoder_norms)}), {len(decoder_norms)} of the decoder "
            f"({list_names(decoder_norms)}) and {len(heads)} ordinary convolutions "
            f"({list_names(heads)}); needed 2 n, n - 1, n - 1 and 1"
        )
    _require(weights, convs, norms, heads[0])
    # The decoder was made from the inside out.
    inner_first = [None, *reversed(decoder_norms)]
    encoder = [
        _stage(weights, conv, norm)
        for conv, norm in zip(convs[:levels], [None, *encoder_norms], strict=True)
    ]
    decoder = [
        _stage(weights, conv, norm, skipped=encoder[level].weight.shape[1])
        for level, (conv, norm) in enumerate(
            zip(reversed(convs[levels:]), inner_first, strict=True)
        )
    ]
    return ForeignUNet(
        family=FAMILY,
        normalisation=_NORMALISATION,
        encoder=encoder,
        decoder=decoder,
        head={
            "offset": weights[f"{convs[-1]}/bias"],
            "conv.weight": weights[f"{heads[0]}/kernel"].permute(3, 2, 0, 1),
            "conv.bias": weights[f"{heads[0]}/bias"],
        },
    )


def _layers(names: Collection[str], part: str) -> list[str]:
    """Return the layers that have `part`, in the order of creation."""
    layers = [layer for layer, _, found in (n.rpartition("/") for n in names) if found == part]
    return sorted(layers, key=_number)


def _number(layer: str) -> int:
    # Keras leaves it out of a session's first: p_conv2d, p_conv2d_1, ...
    digits = re.search(r"(?:_|BN)(\d+)$", layer)
    return int(digits[1]) if digits else 0


def _require(weights: Weights, convs: list[str], norms: list[str], head: str) -> None:
    kernels = _mask_kernels(weights, convs)
    ranks = {f"{conv}/{_KERNEL}": 4 for conv in convs} | {f"{conv}/bias": 1 for conv in convs}
    ranks |= {f"{norm}/{part}": 1 for norm in norms for part in _NORM_PARTS}
    ranks |= {f"{head}/kernel": 4, f"{head}/bias": 1}
    weights.require(FAMILY.name, ranks, ignored="|".join(map(re.escape, kernels)) or "(?!)")
    for kernel, shape in kernels.items():
        weights.require_ones(kernel, shape)


def _mask_kernels(weights: Weights, convs: list[str]) -> dict[str, tuple[int, ...]]:
    """Return the mask-summing kernels, which later releases of TensorFlow save, with their shapes.

    TensorFlow chooses the name, such as `Variable`; the shape is that of the layer's weights.
    """
    shapes = {conv: weights.shape(f"{conv}/{_KERNEL}") for conv in convs}
    kernels = {}
    for name in weights.names:
        layer, _, part = name.rpartition("/")
        if part not in (_KERNEL, "bias") and weights.shape(name) == shapes.get(layer):
            kernels[name] = shapes[layer]
    return kernels


def _stage(weights: Weights, conv: str, norm: str | None, skipped: int = 0) -> Stage:
    weight = weights[f"{conv}/{_KERNEL}"].permute(3, 2, 0, 1)  # (kh, kw, C, K) -> (K, C, kh, kw)
    if weight.shape[2] != weight.shape[3] or weight.shape[1] <= skipped:
        raise CheckpointError(
            f"{weights.path}: {conv} has weights {list(weight.shape)} (out, in, height, width); "
            f"needed a square window and more than {skipped} channels in"
        )
    normed = None
    if norm is not None:
        scale, offset, mean, var = (weights[f"{norm}/{part}"] for part in _NORM_PARTS)
        normed = Norm(scale=scale, offset=offset, mean=mean, var=var, eps=_NORM_EPS)
    ours = torch.cat([weight[:, skipped:], weight[:, :skipped]], dim=1) / weight.shape[1]
    return Stage(name=conv, weight=ours, bias=weights[f"{conv}/bias"], norm=normed)
