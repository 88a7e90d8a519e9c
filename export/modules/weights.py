"""A user's own weights: read without running anything, fitted to a module name by name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pconv_deploy.errors import CheckpointError, ModuleError
from pconv_deploy.export.modules.factory import ANY_FAILURE, reason
from pconv_deploy.foreign.families import LARGEST_FILE, state_dicts
from pconv_deploy.foreign.torch_file import LEGACY, ZIP, read_torch_file
from pconv_deploy.foreign.weights import shown

_READ = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int32, torch.int64),
}
# Counts what batch norms saw; old files lack it, and evaluation does not read it.
_DISPENSABLE = "num_batches_tracked"


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict into a module; every name and shape must fit.

    Args:
        module: whose tensors are overwritten.
        path: safetensors, or a file of torch.save: a state dict, or a dictionary that holds one.

    Raises:
        CheckpointError: unreadable, damaged, with tensors missing, left over, of another shape or
            kind, or not finite; with their names.
    """
    try:
        candidates = _candidates(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    needed = _tensors(module)
    # Of several, such as a generator and its discriminator, the one that is meant.
    stored = max(candidates, key=lambda tensors: len(tensors.keys() & needed.keys()))
    _require_fit(path, stored, needed)
    try:
        module.load_state_dict(dict(stored), strict=False)
    except ANY_FAILURE as error:
        raise CheckpointError(f"{path} could not be loaded: {reason(error)}") from error


def require_finite(module: nn.Module, place: str) -> None:
    """Raise ModuleError, naming the tensors and `place`, if any is NaN or infinite."""
    if bad := [name for name, t in _tensors(module).items() if not bool(t.isfinite().all())]:
        raise ModuleError(f"{place} holds NaN or infinity in {shown(bad)}")


def sha256_of_state(module: nn.Module) -> str:
    """Hash names, shapes and values, of a module that came with its weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def _candidates(path: Path) -> list[Mapping[str, Tensor]]:
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {LARGEST_FILE:,} are read")
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith((ZIP, LEGACY)):
        found = list(state_dicts(read_torch_file(path)).values())
        if not found:
            raise CheckpointError(f"{path} holds no state dict: no dictionary of named tensors")
        return found
    try:
        with safe_open(path, framework="pt") as stored:
            return [{name: stored.get_tensor(name) for name in stored.keys()}]  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged, or neither safetensors nor a file of torch.save: {error}"
        ) from error


def _require_fit(path: Path, stored: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    lacking = [n for n in needed if n not in stored and not n.endswith(_DISPENSABLE)]
    problems = {
        "missing": lacking,
        "left over": [name for name in stored if name not in needed],
        "not of a kind that is read": [n for n, t in stored.items() if not _readable(t)],
    }
    common = [name for name in needed if name in stored]
    shapes = [
        f"{name}: found {list(stored[name].shape)}, needed {list(needed[name].shape)}"
        for name in common
        if stored[name].shape != needed[name].shape
    ]
    complaints = [f"{what}: {shown(names)}" for what, names in problems.items() if names]
    if complaints or shapes:
        raise CheckpointError(
            f"{path} does not fit the module; {'; '.join((*complaints, *shapes[:5]))}"
        )
    # As the module holds them: a number may be finite in double precision only.
    found = {name: stored[name].to(needed[name].dtype) for name in common}
    if bad := [name for name, t in found.items() if not bool(t.isfinite().all())]:
        raise CheckpointError(f"{path} holds NaN or infinity in {shown(bad)}")


def _readable(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in _READ
