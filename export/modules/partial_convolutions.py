"""NVIDIA's PartialConv2d inside a user's module, computed by our operator while it is exported.

The layer (Liu et al. 2018; NVIDIA/partialconv) is an nn.Conv2d with four attributes more, by which
it is found, since every project has a copy of its own. With D the sum of the mask under the window,

    ratio = slide_winsize / (D + 1e-8) * clamp(D, 0, 1)
    y     = (weight * (x mask) * ratio + bias) * clamp(D, 0, 1)

where the mask has as many channels as x (`multi_channel`) or one, and without a mask all is known.
Whether a layer computes this is tried out.
"""

import copy
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from pconv_deploy.errors import ModuleError
from pconv_deploy.export.modules.factory import ANY_FAILURE, reason
from pconv_deploy.layers import PartialConv2d

_ATTRIBUTES = ("multi_channel", "return_mask", "slide_winsize", "weight_maskUpdater")
# Relative; the 1e-8 may be 1e-6, as NVIDIA advises for mixed precision.
_TOLERANCE = 1e-5


def with_operators(network: nn.Module) -> tuple[nn.Module, int]:
    """Copy a network; in the copy every partial convolution becomes one operator when exported.

    Returns:
        The copy, and how many partial convolutions it has. Ours know the operator already.

    Raises:
        ModuleError: a layer looks like NVIDIA's, but is another; with its path.
    """
    network, count = copy.deepcopy(network), 0
    for path, layer in network.named_modules():
        if isinstance(layer, PartialConv2d):
            count += 1
        elif isinstance(layer, nn.Conv2d) and _resembles(layer):
            _require_nvidias(path or "the module itself", layer)
            # Not another object: hooks, parametrisations and attributes stay where they are.
            layer.forward = MethodType(_forward_by_operator, layer)  # type: ignore[method-assign]
            count += 1
    return network, count


def _resembles(layer: nn.Conv2d) -> bool:
    named = "PartialConv" in type(layer).__name__
    return named or any(hasattr(layer, attribute) for attribute in _ATTRIBUTES)


def _forward_by_operator(layer: Any, input: Tensor, mask_in: Tensor | None = None) -> Any:
    """Compute what the layer computes: x (N, C, H, W), mask (N, C or 1, H, W) or None."""
    mask = mask_in
    if mask is None:
        masks = input.shape[0] if layer.multi_channel else 1
        everywhere = torch.ones((masks, 1, *input.shape[2:]), dtype=torch.bool, device=input.device)
        mask = everywhere.to(input.dtype)  # that it is binary shows in the graph
    y, known = torch.ops.pconv_deploy.partial_conv2d(
        input,
        mask,
        layer.weight,
        layer.bias,
        layer.stride,
        _padding(layer),
        layer.dilation,
        layer.groups,
    )
    if layer.multi_channel and mask.shape[1] == 1:  # the operator gives one channel back
        known = known.expand(-1, layer.out_channels, -1, -1)
    return (y, known) if layer.return_mask else y


def _padding(layer: nn.Conv2d) -> list[int]:
    if layer.padding == "valid":
        return [0, 0]
    if layer.padding == "same":  # of even windows it is uneven: another size, refused
        sides = zip(layer.dilation, layer.kernel_size, strict=True)
        return [dilation * (kernel - 1) // 2 for dilation, kernel in sides]
    return [int(pad) for pad in layer.padding]


@torch.no_grad()
def _require_nvidias(path: str, layer: nn.Conv2d) -> None:
    found = f"{path} ({type(layer).__name__})"
    if lacking := [name for name in _ATTRIBUTES if not hasattr(layer, name)]:
        raise ModuleError(
            f"{found} looks like NVIDIA's PartialConv2d, but has no {', '.join(lacking)}: "
            "it is another layer"
        )
    if layer.padding_mode != "zeros":
        raise ModuleError(
            f"{found} has padding_mode {layer.padding_mode!r}, which would make something "
            "known of the outside of an image; needed 'zeros'"
        )
    for masked in (True, False):
        if difference := _difference(layer, masked=masked):
            raise ModuleError(
                f"{found} looks like NVIDIA's PartialConv2d, but computes something else "
                f"{'with a mask' if masked else 'without a mask'}: {difference}"
            )


def _difference(layer: Any, *, masked: bool) -> str | None:
    """What distinguishes a layer, in double precision and with drawn weights, from the operator."""
    layer = copy.deepcopy(layer).double()  # it remembers the mask of the last size
    drawn = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.normal_(generator=drawn)
    windows = zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)
    height, width = (2 * (d * (k - 1) + 1 + stride) for d, k, stride in windows)
    x = torch.empty(2, layer.in_channels, height, width).double().normal_(generator=drawn)
    mask = None
    if masked:  # the left half is hole: windows that know nothing, a little, much
        channels = layer.in_channels if layer.multi_channel else 1
        mask = torch.rand((2, channels, height, width), generator=drawn).lt(0.3).double()
        mask[..., : width // 2] = 0
    by_operator = partial(_forward_by_operator, layer)
    try:
        # Without hooks, which stay.
        found, expected = (_parts(f(x, mask)) for f in (layer.forward, by_operator))
    except ANY_FAILURE as error:
        return reason(error)
    shapes = [[list(part.shape) for part in parts] for parts in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"found results of shapes {shapes[0]}, needed {shapes[1]}"
    for name, part, needed in zip(("output", "mask"), found, expected, strict=False):
        apart = float((part - needed).abs().max()) / (float(needed.abs().max()) or 1.0)
        if not apart <= _TOLERANCE:  # written so that NaN counts
            return f"its {name} differs by {apart:.1e} of the largest value"
    return None


def _parts(result: Any) -> list[Tensor]:
    parts = list(result) if isinstance(result, tuple | list) else [result]
    return [part for part in parts if isinstance(part, Tensor)]
