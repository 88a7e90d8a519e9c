"""Find partial convolutions in a user's module and compute them by our operator in the export.

The layer (Liu et al. 2018; NVIDIA/partialconv) is an nn.Conv2d whose forward takes a mask. With D
the sum of the mask under the window,

    ratio = slide_winsize / (D + 1e-8) * clamp(D, 0, 1)
    y     = (weight * (x mask) * ratio + bias) * clamp(D, 0, 1)

where the mask has as many channels as x or one, and without a mask all is known. Every project has
a copy of its own, under names of its own. So every nn.Conv2d with a forward of its own is tried
out, and what computes this is one. Others are exported as the operators that they are made of.
"""

import copy
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pconv_deploy.errors import ModuleError
from pconv_deploy.export.modules.double_precision import DoublePrecision
from pconv_deploy.export.modules.factory import ANY_FAILURE, describe_error
from pconv_deploy.network.layers import PartialConv2d

_ATTRIBUTES = ("multi_channel", "return_mask", "slide_winsize", "weight_maskUpdater")
# Relative; the 1e-8 may be 1e-6, as NVIDIA advises for mixed precision.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class WithOperators:
    """A copy of a network with operators for its partial convolutions.

    lookalikes  what differs, by the paths of layers that have the name or the attributes of
                NVIDIA's, but compute something else
    """

    network: nn.Module
    partial_convolutions: int
    lookalikes: dict[str, str]


@dataclass(frozen=True)
class _Returned:
    """What a layer returns besides its features: channels of its mask, None for no mask."""

    mask_channels: int | None = None
    one_mask_for_all: bool = True  # of a batch, where it was called without a mask


# By the channels of the mask that it is called with; 0: without a mask.
_OperatorCalls = dict[int, _Returned]


def with_operators(network: nn.Module, run: Callable[[nn.Module], None]) -> WithOperators:
    """Copy a network; in the copy every partial convolution becomes one operator when exported.

    Args:
        network: with its weights, in evaluation mode.
        run: calls a network with holes. It shows whether layers are given masks of 0 and 1 alone:
            copies of the layer differ where masks lie between them.
    """
    soft = _layers_with_soft_masks(network, run)
    network, count, lookalikes = copy.deepcopy(network), 0, {}
    _fix_computed_weights(network)
    for path, layer in network.named_modules():
        if isinstance(layer, PartialConv2d):  # ours knows the operator already
            count += 1
        elif _has_own_forward(layer):
            calls, difference = _compare_all_calls(layer, soft=path in soft)
            if calls:
                # Not another object: hooks and attributes stay where they are.
                forward = _operator_forward(calls, layer.forward)
                layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]
            count += any(calls)  # with a mask, that is
            named = "PartialConv" in type(layer).__name__
            if difference and (named or any(hasattr(layer, name) for name in _ATTRIBUTES)):
                lookalikes[f"{path or 'the module itself'} ({type(layer).__name__})"] = difference
    return WithOperators(network, count, lookalikes)


def _has_own_forward(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(layer, nn.Conv2d) and type(layer).forward is not nn.Conv2d.forward


def _layers_with_soft_masks(network: nn.Module, run: Callable[[nn.Module], None]) -> set[str]:
    """Return the paths of layers that are called with masks of values other than 0 and 1."""
    network, soft = copy.deepcopy(network), set()

    def note(path: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        masks = [value for value in (*args, *named.values())[1:] if isinstance(value, Tensor)]
        if any(not bool(((mask == 0) | (mask == 1)).all()) for mask in masks):
            soft.add(path)

    for path, layer in network.named_modules():
        if _has_own_forward(layer):
            layer.register_forward_pre_hook(
                lambda _layer, args, named, path=path: note(path, args, named), with_kwargs=True
            )
    try:
        run(network)
    except ModuleError:  # another size may do; nothing is known of its masks
        return {path for path, layer in network.named_modules() if _has_own_forward(layer)}
    return soft


def _operator_forward(calls: _OperatorCalls, own: Callable[..., Any]) -> Callable[..., Any]:
    """Make a forward that uses the operator for the calls in which it equals the layer."""
    signature = inspect.signature(own)

    def forward(layer: Any, *args: Any, **named: Any) -> Any:
        given = list(signature.bind(*args, **named).arguments.values())
        x, mask = given[0], given[1] if len(given) > 1 else None
        returned = calls.get(0 if mask is None else mask.shape[1])
        if returned is None or len(given) > 2:
            return own(*args, **named)
        parts = _compute(layer, x, mask, returned)
        return parts if len(parts) > 1 else parts[0]

    return forward


def _compute(layer: Any, x: Tensor, mask: Tensor | None, returned: _Returned) -> tuple[Tensor, ...]:
    """Compute a layer by the operator: x (N, C, H, W), mask (N, C or 1, H, W) or None."""
    if mask is None:
        masks = 1 if returned.one_mask_for_all else x.shape[0]
        everywhere = torch.ones((masks, 1, *x.shape[2:]), dtype=torch.bool, device=x.device)
        mask = everywhere.to(x.dtype)  # that it is binary shows in the graph
    y, known = torch.ops.pconv_deploy.partial_conv2d(
        x,
        mask,
        layer.weight,
        layer.bias,
        layer.stride,
        _padding(layer),
        layer.dilation,
        layer.groups,
    )
    if returned.mask_channels is None:
        return (y,)
    if returned.mask_channels < known.shape[1]:  # all channels are equal
        known = known[:, : returned.mask_channels]
    elif returned.mask_channels > known.shape[1]:
        known = known.expand(-1, returned.mask_channels, -1, -1)
    return y, known


def _padding(layer: nn.Conv2d) -> list[int]:
    if layer.padding == "valid":
        return [0, 0]
    if layer.padding == "same":  # of even windows it is uneven: another size, which differs
        sides = zip(layer.dilation, layer.kernel_size, strict=True)
        return [dilation * (kernel - 1) // 2 for dilation, kernel in sides]
    return [int(pad) for pad in layer.padding]


def _compare_all_calls(layer: nn.Conv2d, *, soft: bool) -> tuple[_OperatorCalls, str | None]:
    """Call a layer in every way; return the calls that equal the operator, and what differs."""
    calls: _OperatorCalls = {}
    difference = None
    for channels in dict.fromkeys((layer.in_channels, 1, 0)):
        found = _compare_call(layer, channels, soft=soft)
        if isinstance(found, _Returned):
            calls[channels] = found
        elif found is not None:
            way = f"with a mask of {channels} channels" if channels else "without a mask"
            difference = difference or f"{way}, {found}"
    if not calls and difference is None:
        difference = "it takes no features of four axes, nor these with a mask"
    return calls, difference


@torch.no_grad()
def _compare_call(layer: nn.Conv2d, channels: int, *, soft: bool) -> _Returned | str | None:
    """Compare a layer with random weights, called with a mask of `channels`, with the operator.

    Return what it returns, if both compute the same; what differs; None if it cannot be called so.
    """
    drawn = torch.Generator().manual_seed(0)
    windows = zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)
    height, width = (2 * (d * (k - 1) + 1 + stride) for d, k, stride in windows)
    x = torch.empty(2, layer.in_channels, height, width).normal_(generator=drawn)
    # The left half is hole: windows that know nothing, a little, much.
    mask = torch.rand((2, channels, height, width), generator=drawn).lt(0.3).float()
    mask[..., : width // 2] = 0
    if soft:
        mask[..., height // 2, 0] = 0.5 / max(1, channels)
    for precision in (torch.float64, torch.float32):  # some insist on single
        tried = copy.deepcopy(layer).to(precision)  # it remembers the mask of the last size
        for parameter in tried.parameters():
            parameter.normal_(generator=drawn)
        given = [part.to(precision) for part in (x, mask) if part.numel()]
        with DoublePrecision() if precision == torch.float64 else nullcontext():
            try:
                found = tried.forward(*given)  # without hooks, which stay
            except ANY_FAILURE:
                continue
            return _difference(tried, given, found)
    return None


def _difference(layer: nn.Conv2d, given: list[Tensor], result: Any) -> _Returned | str:
    found = list(result) if isinstance(result, tuple | list) else [result]
    if not 1 <= len(found) <= 2 or not all(
        isinstance(part, Tensor) and part.dim() == 4 and part.is_floating_point() for part in found
    ):
        return "it returns something else than features, or features and their mask"
    returned = _Returned()
    if len(found) == 2:
        returned = _Returned(found[1].shape[1], found[1].shape[0] == 1)
    try:
        expected = _compute(layer, given[0], given[1] if len(given) > 1 else None, returned)
    except ANY_FAILURE as error:
        return describe_error(error)
    for name, part, needed in zip(("output", "mask"), found, expected, strict=False):
        if part.shape != needed.shape:
            return f"its {name} has shape {list(part.shape)}; needed {list(needed.shape)}"
        apart = float((part - needed).abs().max()) / (float(needed.abs().max()) or 1.0)
        if not apart <= _TOLERANCE:  # written so that NaN counts
            return f"its {name} differs by {apart:.1e} of the largest value"
    return returned


def _fix_computed_weights(network: nn.Module) -> None:
    """Compute spectral norms, weight norms and other parametrisations once.

    In evaluation they depend on no image. As operators of a graph they would be computed for every
    image, and no rewrite could take their results for weights.
    """
    for part in network.modules():
        if parametrize.is_parametrized(part):
            _fix_parametrisations(part)
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)


def _fix_parametrisations(part: nn.Module) -> None:
    """Remove parametrisations; torch's own function breaks every copy of the module."""
    names = list(part.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(part, name).detach() for name in names}
    part.__class__ = type(part).__bases__[0]  # torch had derived a class of its own
    del part.parametrizations
    for name, value in values.items():
        part.register_parameter(name, nn.Parameter(value, requires_grad=False))
