"""The network a configuration describes, and the forms of it."""

import copy

import torch
from torch import nn

from pconv_deploy.contract import UNetConfig
from pconv_deploy.network.ordinary import ConvBlock, ConvUNet
from pconv_deploy.network.reference import LiteralConvUNet, LiteralPConvUNet
from pconv_deploy.network.unet import PConvBlock, PConvUNet

Network = PConvUNet | ConvUNet


def build_network(config: UNetConfig) -> Network:
    """Make the network with fresh weights (He et al. 2015)."""
    return PConvUNet(config) if config.convolution == "partial" else ConvUNet(config)


def literal_network(network: Network) -> nn.Module:
    """Make the literal formulation (see `literal`) with the same weights and statistics."""
    kind = LiteralPConvUNet if isinstance(network, PConvUNet) else LiteralConvUNet
    literal = kind(network.config)
    literal.load_state_dict(network.state_dict())
    return literal


def for_inference(network: Network) -> Network:
    """Return a copy in evaluation mode that computes the same function with less work.

    Batch norm folds into the convolution although in a partial one the ratio stands between
    them. With a, d the scale and offset of the batch norm in evaluation mode,

        a ((w * x) ratio) + d  =  ((a w) * x) ratio + d      wherever the output is known.

    In a hole the norm yields d, which the block multiplies away, and the folded layer 0. As ReLU
    and LeakyReLU keep 0, no block needs to mask anything any more: the image is masked once, at
    the entrance.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    for block in (*folded.encoder, *folded.decoder):
        assert isinstance(block, PConvBlock | ConvBlock)
        _fold_batch_norm(block)
    return folded


def _fold_batch_norm(block: PConvBlock | ConvBlock) -> None:
    norm = block.norm
    if not isinstance(norm, nn.BatchNorm2d):
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In double precision: the fold must not cost more than one rounding.
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    offset = norm.bias.double() - norm.running_mean.double() * scale
    weight = block.conv.weight
    block.conv.weight = nn.Parameter(
        (weight.double() * scale[:, None, None, None]).to(weight.dtype), requires_grad=False
    )
    block.conv.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)
    block.norm = nn.Identity()
