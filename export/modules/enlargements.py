"""Find sizes at which a network enlarges by whole factors, so that rewrites apply.

A network that enlarges to the size of what it joins runs at any size. Halved three times, 8 n
becomes n and doubles back each time; 9 becomes 5, 3, 2, and 2 to 3 is no factor that a graph of
free sizes could state. Only shapes are computed here, so that large sizes cost nothing.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pconv_deploy.contract import MAX_LEVELS

Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # before and after
# Odd, so that nothing but the multiple itself can make a factor whole.
_TIMES = ((3, 5), (7, 3))


def whole_multiple(network: Callable[[], nn.Module], multiple: int) -> int:
    """Find the smallest multiple of sides at which the fewest enlargements are by broken factors.

    Args:
        network: returns a new copy that takes image (1, 3, H, W) and known (1, 1, H, W).
        multiple: at which it runs.

    Returns:
        `multiple` times a power of two, up to 1024; `multiple` itself if nothing is gained, or if
        the network needs to see values to run.
    """
    best, fewest = multiple, None
    while multiple <= 1 << MAX_LEVELS:
        broken = _broken(network, multiple)
        if broken is None:
            break
        if fewest is None or broken < fewest:
            best, fewest = multiple, broken
        if not broken:
            break
        multiple *= 2
    return best


def _broken(network: Callable[[], nn.Module], multiple: int) -> int | None:
    """Count enlargements without a factor that is whole and the same at two sizes."""
    try:
        first, second = (
            _enlargements(network(), multiple * rows, multiple * columns)
            for rows, columns in _TIMES
        )
    except Exception:  # noqa: BLE001  the user's code, run without values
        return None
    pairs = zip_longest(first, second)
    return sum(_factors(one) is None or _factors(one) != _factors(other) for one, other in pairs)


def _factors(sizes: Sizes | None) -> tuple[int, ...] | None:
    if sizes is None or any(after % before for before, after in zip(*sizes, strict=True)):
        return None
    return tuple(after // before for before, after in zip(*sizes, strict=True))


class _Enlargements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records sizes before and after every nearest-neighbour enlargement."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Sizes] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.upsample_nearest2d:
            self.seen.append((tuple(args[0].shape[-2:]), tuple(result.shape[-2:])))
        return result


@torch.no_grad()
def _enlargements(network: nn.Module, height: int, width: int) -> list[Sizes]:
    noted = _Enlargements()
    with FakeTensorMode(allow_non_fake_inputs=True), noted:
        network(torch.zeros(1, 3, height, width), torch.ones(1, 1, height, width))
    return noted.seen
