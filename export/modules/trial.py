"""Find by running a user's module what it takes: mask channels and image sizes."""

import copy
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pconv_deploy.contract import MAX_LEVELS
from pconv_deploy.errors import ModuleError
from pconv_deploy.export.modules.double_precision import DoublePrecision
from pconv_deploy.export.modules.enlargements import whole_multiple
from pconv_deploy.export.modules.factory import ANY_FAILURE, describe_error

Size = tuple[int, int]
MaskChannels = Literal[1, 3]
_MASK_CHANNELS: tuple[MaskChannels, ...] = (1, 3)


_SUBCLASS = "A subclass with such a forward, as in docs/own-networks.md, needs no other weights"


class WrongOutputError(ModuleError):
    """A module ran, but did not return an image of any size."""


class CalledModule(nn.Module):
    """Adapts a user's network to the call of ours.

    It is given image * mask, so that nothing of what a hole holds can reach the output, and a mask
    of `mask_channels` equal channels, 1 = known.

    image (N, 3, H, W), known (N, 1, H, W) of 0 and 1 -> (N, 3, H, W)
    """

    def __init__(self, network: nn.Module, mask_channels: MaskChannels) -> None:
        super().__init__()
        self.network, self.mask_channels = network, mask_channels

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            traced: Tensor = self._called(image, known)
            return traced
        height, width = image.shape[-2:]
        try:
            output: Any = self._called(image, known)
        except ANY_FAILURE as error:
            raise ModuleError(
                f"the module fails at {height}x{width}: {describe_error(error)}"
            ) from error
        if not isinstance(output, Tensor) or output.shape != image.shape:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            resized = isinstance(output, Tensor) and output.shape[:-2] == image.shape[:-2]
            raise (ModuleError if resized else WrongOutputError)(
                f"the module returns {found} for an image of {list(image.shape)}; needed a tensor "
                f"of that shape, alone or followed by its mask. {_SUBCLASS}"
            )
        checked: Tensor = output
        return checked

    def _called(self, image: Tensor, known: Tensor) -> Any:
        result = self.network(image * known, known.expand(-1, self.mask_channels, -1, -1))
        return result[0] if isinstance(result, tuple | list) and result else result


def find_interface(
    network: nn.Module,
    multiple: int | None,
    size: Size | None,
    progress: Callable[[str], None],
) -> tuple[MaskChannels, int]:
    """Run copies of a network until one combination works.

    Args:
        network: its forward takes (image, mask).
        multiple: of which heights and widths are to be multiples. None: the smallest power of two
            for which sides of once and twice as much run, or 1 if there is a size; larger where
            only then all enlargements are by whole factors.
        size: height and width, if they are to be fixed.
        progress: receives each step.

    Returns:
        The channels of its mask, and the multiple.

    Raises:
        ModuleError: nothing works; with what was raised.
    """
    _require_two_inputs(network)
    multiples = [multiple or 1]
    if size is None and multiple is None:
        multiples = [1 << level for level in range(MAX_LEVELS + 1)]
    progress("trying which masks and sizes the module takes")
    channels, side = _first_that_runs(network, multiples, size)
    if multiple is None and size is None:
        whole = whole_multiple(lambda: CalledModule(copy.deepcopy(network), channels), side)
        if whole > side:
            progress(
                f"it takes multiples of {side}; using multiples of {whole}, at which all "
                "enlargements are by whole factors, as the rewrites need. --size-multiple "
                "overrides this"
            )
        side = whole
    return channels, side


def run_on_holes(network: nn.Module, mask_channels: MaskChannels, size: Size) -> None:
    """Call a network with a hole in one quarter, and with a single known pixel."""
    height, width = size
    called = CalledModule(network, mask_channels)
    _run(called, height, width)
    known = torch.zeros(1, 1, height, width)
    known[..., height // 2, width // 3] = 1
    with torch.no_grad():
        called(torch.ones(1, 3, height, width), known)


def runs_in_double(called: CalledModule, height: int, width: int) -> bool:
    """Return whether a network runs in double precision; some code requires single."""
    called = copy.deepcopy(called).double()
    try:
        with DoublePrecision():
            _run(called, height, width)
    except ModuleError:
        return False
    return True


def _first_that_runs(
    network: nn.Module, multiples: Sequence[int], size: Size | None
) -> tuple[MaskChannels, int]:
    complaints: dict[MaskChannels, ModuleError] = {}
    for side, channels in itertools.product(multiples, _MASK_CHANNELS):
        sizes = [size] if size else [(side, side), (side, 2 * side), (2 * side, 2 * side)]
        try:
            for height, width in sizes:
                _run(CalledModule(copy.deepcopy(network), channels), height, width)
        except ModuleError as error:
            complaints[channels] = error
        else:
            return channels, side
        wrong = [e for e in complaints.values() if isinstance(e, WrongOutputError)]
        if wrong and len(complaints) == len(_MASK_CHANNELS):
            raise wrong[0]  # another size would not help
    raise ModuleError(
        "the module's forward(image, mask) worked neither with a mask of 1 channel nor of 3, at "
        + (f"{size[0]}x{size[1]}" if size else f"sides of {multiples[0]} to {2 * multiples[-1]}")
        + "".join(f"\n  {channels}: {error}" for channels, error in complaints.items())
        + ("" if size else "\n  If it takes one size only, pass it as --size HxW")
    )


def _require_two_inputs(network: nn.Module) -> None:
    try:
        signature = inspect.signature(network.forward)
        signature.bind("image", "mask")
    except TypeError as error:
        raise ModuleError(
            f"the module's forward takes {signature}; needed (image, mask): {error}. {_SUBCLASS}"
        ) from error


@torch.no_grad()
def _run(called: CalledModule, height: int, width: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, height, width, generator=drawn)
    known = torch.ones(1, 1, height, width)
    known[..., : height // 2, : width // 2] = 0
    called(image, known)
