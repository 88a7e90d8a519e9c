"""Load a user's weights without running code, matched to a module name by name."""

import hashlib
import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pconv_deploy.checkpoints.foreign.contents import read_content
from pconv_deploy.checkpoints.foreign.tensor_tree import ROOT, Tensors, TensorTree, without_wrappers
from pconv_deploy.checkpoints.foreign.weights import is_counter, is_no_weight, list_names
from pconv_deploy.errors import CheckpointError, ModuleError
from pconv_deploy.export.modules.factory import ANY_FAILURE, describe_error
from pconv_deploy.held_file import held_file

_READ = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int32, torch.int64),
}
_NEEDED = "Needed: the module's weights, of torch.save or as safetensors"
_CHOOSE = "Choose one: --weights-key KEY"
# NVIDIA's name and naoto0804's for what a layer may store or make anew: it is no weight.
_MASK_KERNEL = re.compile(r"(.*\.)?(weight_mask_?updater|mask_conv\.weight)", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedWeights:
    """Where a module's weights came from.

    sha256  of the file
    key     where in the file they lie; None: they are the file
    """

    sha256: str
    key: str | None


def load_weights(module: nn.Module, path: Path, key: str | None = None) -> LoadedWeights:
    """Load a module's weights from any branch of a file; every name and shape must fit.

    Args:
        module: whose tensors are overwritten.
        path: safetensors, or a file of torch.save.
        key: which weights are meant, where several in the file would fit.

    Raises:
        CheckpointError: unreadable, damaged, with missing or unexpected tensors, wrong shapes or
            types, not finite, or with several sets of weights that fit and no `key`.
    """
    try:
        with held_file(path) as file:
            tree = TensorTree(path, read_content(file, ("safetensors", "torch"), _NEEDED))
            wanted = _ModuleWeights(module)
            fitting = tree.fitting(wanted)
            branch = tree.choose(fitting, key, _CHOOSE)
            if branch is None:
                raise CheckpointError(f"{path} {wanted.misfit(tree, key)}")
            wanted.load(path, fitting[branch])
            return LoadedWeights(file.sha256(), None if branch == ROOT else branch)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


class _ModuleWeights:
    """Matches the weights of a module.

    Names are compared without what wrappers of torch insert, and below the branch that all of the
    module's lie in: a file may hold the network alone that the module wraps.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        own = _tensors(module)
        # By the names in a file: the module's own names.
        names = without_wrappers({name: name for name in own})
        self._names = [names, *_below_common_branch(names)]
        self._own = own

    def uses(self, names: Collection[str], /) -> bool:
        return any(not wanted.keys().isdisjoint(names) for wanted in self._names)

    def fits(self, tensors: Tensors, /) -> bool:
        return any(not self._problems(tensors, names) for names in self._names)

    def misfit(self, tree: TensorTree, key: str | None) -> str:
        """Describe what is missing or unexpected in the best match."""
        there = [tree.relevant(branch, self) for branch in tree.branches_within(key)]
        if not there:
            return "holds no state dict: no dictionary of named tensors"
        # Of equal matches, the innermost.
        tensors, names = max(
            itertools.product(there, self._names), key=lambda pair: len(pair[0].keys() & pair[1])
        )
        return f"does not fit the module; {'; '.join(self._problems(tensors, names))}"

    def load(self, path: Path, tensors: Tensors) -> None:
        """Check the values and copy them into the module."""
        names = next(names for names in self._names if not self._problems(tensors, names))
        given = {
            names[name]: tensor.to(self._own[names[name]].dtype)  # finite as the module holds it
            for name, tensor in tensors.items()
            if name in names and tensor.shape == self._own[names[name]].shape
        }
        if bad := [name for name, tensor in given.items() if not bool(tensor.isfinite().all())]:
            raise CheckpointError(f"{path} holds NaN or infinity in {list_names(bad)}")
        try:
            self._module.load_state_dict(given, strict=False)
        except ANY_FAILURE as error:
            raise CheckpointError(f"{path} could not be loaded: {describe_error(error)}") from error

    def _problems(self, tensors: Tensors, names: Mapping[str, str]) -> list[str]:
        extra = [n for n in tensors if n not in names and not is_no_weight(n, tensors[n])]
        lacking = [n for n in names if n not in tensors and not is_counter(n)]
        common = [n for n in names if n in tensors]
        problems = {
            "missing": [n for n in lacking if not _sums_masks(n, self._own[names[n]])],
            "unexpected": [n for n in extra if not _sums_masks(n, tensors[n])],
            "of an unsupported type": [n for n in common if not _readable(tensors[n])],
        }
        shapes = [
            f"{n}: found {list(tensors[n].shape)}, needed {list(self._own[names[n]].shape)}"
            for n in common
            if tensors[n].shape != self._own[names[n]].shape and not is_counter(n)
        ]
        complaints = [f"{what}: {list_names(found)}" for what, found in problems.items() if found]
        return [*complaints, *shapes[:5]]


def _below_common_branch(names: Mapping[str, str]) -> list[dict[str, str]]:
    """Remove the branch that all names begin with, if there is one."""
    below = dict(names)
    # Of a single layer "weight" and "bias" would be left, which any layer has.
    while len({n.partition(".")[0] for n in below}) == 1 and any(n.count(".") > 1 for n in below):
        below = {name.partition(".")[2]: own for name, own in below.items()}
    return [below] if len(below) == len(names) and below != names else []


def _sums_masks(name: str, tensor: Tensor) -> bool:
    """Return whether this is a mask-summing kernel of ones."""
    named = _MASK_KERNEL.fullmatch(name) is not None
    return named and _readable(tensor) and bool((tensor == 1).all())


def require_finite(module: nn.Module, name: str) -> None:
    """Raise ModuleError with `name` and the tensors if any is NaN or infinite."""
    if bad := [key for key, t in _tensors(module).items() if not bool(t.isfinite().all())]:
        raise ModuleError(f"{name} holds NaN or infinity in {list_names(bad)}")


def sha256_of_state(module: nn.Module) -> str:
    """Hash names, shapes and values of a module's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def _readable(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in _READ
