"""Weights that a module computes anew for every image, from nothing but its parameters."""

from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def fix_computed_weights(network: nn.Module) -> None:
    """Compute spectral norms, weight norms and other parametrisations once and for all.

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
    """Do as `parametrize.remove_parametrizations`, which breaks every copy of the module."""
    names = list(part.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(part, name).detach() for name in names}
    part.__class__ = type(part).__bases__[0]  # torch had derived a class of its own
    del part.parametrizations
    for name, value in values.items():
        part.register_parameter(name, nn.Parameter(value, requires_grad=False))
