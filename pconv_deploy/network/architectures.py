"""The table of architectures, and the forms of a network that it makes."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pconv_deploy.contract import UNetConfig
from pconv_deploy.network.ordinary import ConvUNet, LiteralConvUNet
from pconv_deploy.network.reference import LiteralPConvUNet
from pconv_deploy.network.unet import PConvUNet

Network = PConvUNet | ConvUNet


# By `UNetConfig.convolution`. Files store the configuration, so its class with description and size
# multiple is in `contract`, which needs no torch.
# Each is a network, whose batch norms are the `norm` behind a `conv`, and the literal formulation,
# which takes its state dict and shares no code with it.
ARCHITECTURES: Mapping[str, tuple[type[Network], type[nn.Module]]] = {
    "partial": (PConvUNet, LiteralPConvUNet),
    "ordinary": (ConvUNet, LiteralConvUNet),
}


def build_network(config: UNetConfig) -> Network:
    """Make the network of a configuration with fresh weights (He et al. 2015)."""
    return ARCHITECTURES[config.convolution][0](config)


def literal_network(network: Network) -> nn.Module:
    """Make the literal formulation with the same weights and statistics."""
    literal = ARCHITECTURES[network.config.convolution][1](network.config)
    literal.load_state_dict(network.state_dict())
    return literal


def for_inference(network: Network) -> Network:
    """Return a copy in evaluation mode that computes the same function with less work.

    Batch norm folds into the convolution although in a partial one the ratio stands between
    them. With a, d the scale and offset of the batch norm in evaluation mode,

        a ((w * x) ratio) + d  =  ((a w) * x) ratio + d      wherever the output is known.

    In a hole the norm yields d, which the block multiplies away, and the folded layer 0. As ReLU
    and LeakyReLU keep 0, the image is masked once, at the entrance.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    for block in folded.modules():
        if isinstance(getattr(block, "norm", None), nn.BatchNorm2d):
            _fold_batch_norm(block)
    return folded


def _fold_batch_norm(block: Any) -> None:
    # In double precision: the fold must not cost more than one rounding.
    norm, weight = block.norm, block.conv.weight
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    offset = norm.bias.double() - norm.running_mean.double() * scale
    scaled = (weight.double() * scale[:, None, None, None]).to(weight.dtype)
    block.conv.weight = nn.Parameter(scaled, requires_grad=False)
    block.conv.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)
    block.norm = nn.Identity()
