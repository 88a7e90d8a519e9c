"""Check the tensors of a foreign file: complete, of a supported type, finite."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pconv_deploy.errors import CheckpointError

# Counters of torch and thop beside the weights; no network computes with them.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
_READ = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_SHOWN, _LONGEST = 8, 100


class Weights:
    """Tensors by name, read in double precision so that rescaling costs one rounding only."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self._tensors = path, tensors

    @property
    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].detach().double()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def require(self, project: str, ranks: Mapping[str, int], ignored: str = "(?!)") -> None:
        """Check that the file holds exactly the needed tensors with these numbers of dimensions.

        Args:
            project: whose file it is taken for.
            ranks: number of dimensions of every tensor that is needed.
            ignored: pattern of names that may be there besides.

        Raises:
            CheckpointError: missing, unexpected, of another type, or not finite; with the names.
        """
        missing = [name for name in ranks if name not in self._tensors]
        unexpected = [
            name
            for name, tensor in self._tensors.items()
            if name not in ranks
            and not is_no_weight(name, tensor)
            and not re.fullmatch(ignored, name)
        ]
        problems = [
            f"{what}: {list_names(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        if problems:
            raise CheckpointError(
                f"{self.path} looks like a network of {project}, but does not fit one of "
                f"partial convolutions: {'; '.join(problems)}"
            )
        for name, rank in ranks.items():
            self._require_kind(name, rank)
        if bad := [name for name in ranks if not bool(self._tensors[name].isfinite().all())]:
            raise CheckpointError(f"{self.path} holds NaN or infinity in {list_names(bad)}")

    def require_ones(self, name: str, shape: tuple[int, ...]) -> None:
        """Check that a stored mask-summing kernel is all ones."""
        tensor = self._tensors.get(name)
        if tensor is None:  # some files leave it out: it is no weight
            return
        if tuple(tensor.shape) != shape or not bool((tensor == 1).all()):
            raise CheckpointError(
                f"{self.path}: {name} {list(tensor.shape)} sums the masks of a partial "
                f"convolution; needed {list(shape)}, all ones"
            )

    def _require_kind(self, name: str, rank: int) -> None:
        tensor = self._tensors[name]
        # A view with steps of 0 would have more elements than there is memory behind it.
        dense = (
            tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and tensor.nbytes <= tensor.untyped_storage().nbytes()
        )
        if not dense or tensor.dtype not in _READ or tensor.dim() != rank or not tensor.numel():
            raise CheckpointError(
                f"{self.path}: {name} is {tensor.dtype} {list(tensor.shape)}; needed dense "
                f"floating point of {rank} dimensions, none of them 0"
            )


def is_counter(name: str) -> bool:
    """Return whether a tensor is a counter."""
    return name.rpartition(".")[2] in _COUNTERS


def is_no_weight(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is a counter or a single whole number, such as an epoch."""
    return is_counter(name) or (tensor.dim() == 0 and not tensor.is_floating_point())


def list_names(names: Collection[str]) -> str:
    """List the first few names for a message; names in a file may hold any character."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shortened = (name[:_LONGEST] for name in sorted(names)[:_SHOWN])
    return ", ".join(name if name.isprintable() else ascii(name) for name in shortened) + more


def text_of_name(path: Path) -> str:
    """Return a file's name as text that can be stored; names need not be Unicode."""
    return path.name.encode(errors="replace").decode()
