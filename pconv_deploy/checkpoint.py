"""The canonical checkpoint: safetensors, with everything but the tensors in its metadata.

Metadata keys (each value JSON): `pconv_deploy.format`, `pconv_deploy.network`,
`pconv_deploy.normalisation`, `pconv_deploy.training`. Tensor names are the network's state dict.

Nothing here unpickles. A reader for another project's format belongs beside `load_checkpoint`,
which recognises what a file is before anything is read from it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pconv_deploy.contract import JsonScalar, Normalisation, Source, UNetConfig
from pconv_deploy.errors import CheckpointError, OutputError
from pconv_deploy.files import atomic_file, sha256_of
from pconv_deploy.networks import Network, build_network

CHECKPOINT_FORMAT = 1
_PREFIX = "pconv_deploy."
# By whether the network wants floating point (weights) or whole numbers (counters).
_STORED_AS = {
    True: {torch.float16, torch.bfloat16, torch.float32, torch.float64},
    False: {torch.int32, torch.int64},
}
# A zip archive, a bare pickle, HDF5: what other frameworks' checkpoints begin with.
_FOREIGN = {
    b"PK\x03\x04": "a PyTorch .pt/.pth archive",
    b"\x80": "a Python pickle",
    b"\x89HDF": "HDF5",
}


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode with the facts that belong to it."""

    model: Network
    normalisation: Normalisation
    source: Source


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself; `shapes` by tensor name."""

    network: UNetConfig
    normalisation: Normalisation
    training: Mapping[str, JsonScalar]
    shapes: Mapping[str, tuple[int, ...]]


def save_checkpoint(
    path: Path | str,
    model: Network,
    *,
    normalisation: Normalisation | None = None,
    training: Mapping[str, JsonScalar] | None = None,
    half: bool = False,
) -> None:
    """Write `model` to `path`, whole or not at all.

    Args:
        path: of the new file, by custom `*.safetensors`.
        model: its weights and its configuration are stored.
        normalisation: of the images it was trained on; -1..1 if not given.
        training: facts worth keeping, such as data set, steps, seed.
        half: store weights in half precision; they are read back in single precision.

    Raises:
        OutputError: it could not be written.
    """
    facts = {
        "format": CHECKPOINT_FORMAT,
        "network": model.config,
        "normalisation": normalisation or Normalisation(),
        "training": dict(training or {}),
    }
    metadata = {_PREFIX + key: msgspec.json.encode(fact).decode() for key, fact in facts.items()}
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().contiguous()
        for name, t in model.state_dict().items()
    }
    path = Path(path)
    with atomic_file(path) as partial:
        try:
            save_file(tensors, partial, metadata)
        except SafetensorError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def read_header(path: Path) -> CheckpointHeader:
    """Read what a checkpoint says of itself, without its tensors.

    Raises:
        CheckpointError: missing, of another format, damaged.
    """
    with _opened(path) as stored:
        metadata = stored.metadata() or {}
        found = metadata.get(_PREFIX + "format")
        if found is None:
            raise CheckpointError(
                f"{path} is a safetensors file, but not a pconv-deploy checkpoint: its metadata "
                f"lacks {_PREFIX}format (found: {', '.join(sorted(metadata)) or 'none'}). "
                "Write checkpoints with pconv_deploy.checkpoint.save_checkpoint"
            )
        if found != str(CHECKPOINT_FORMAT):
            raise CheckpointError(
                f"{path} has checkpoint format {found}; this pconv-deploy reads format "
                f"{CHECKPOINT_FORMAT}. Upgrade pconv-deploy"
            )
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    return CheckpointHeader(
        network=_fact(path, metadata, "network", UNetConfig),
        normalisation=_fact(path, metadata, "normalisation", Normalisation),
        training=_fact(path, metadata, "training", dict[str, JsonScalar]),
        shapes=shapes,
    )


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint; every size is checked before memory is taken for it.

    Raises:
        CheckpointError: missing, of another format, damaged, with tensors missing, left over
            or of wrong shape, or with weights that are not finite.
    """
    path = Path(path)
    header = read_header(path)
    with torch.device("meta"):  # shapes only
        needed = {
            name: tuple(t.shape) for name, t in build_network(header.network).state_dict().items()
        }
    _compare_shapes(path, header.shapes, needed)
    model = build_network(header.network)
    with _opened(path) as stored:
        tensors = {
            name: _converted(path, name, stored.get_tensor(name), target.dtype)
            for name, target in model.state_dict().items()
        }
    model.load_state_dict(tensors)
    source = Source(
        file=path.name.encode(errors="replace").decode(),  # names need not be Unicode
        sha256=sha256_of(path),
        network=header.network,
        training=dict(header.training),
    )
    return Checkpoint(model.eval(), header.normalisation, source)


def _converted(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype not in _STORED_AS[dtype.is_floating_point]:
        raise CheckpointError(f"{path}: {name} is stored as {tensor.dtype}, which is not read")
    converted = tensor.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinity, or overflows {dtype}")
    if name.endswith("running_var") and bool((converted < 0).any()):
        raise CheckpointError(f"{path}: {name} is a variance and holds negative values")
    return converted


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if (path / "network.safetensors").is_file():
        raise CheckpointError(
            f"{path} is a training run; its checkpoint is {path / 'network.safetensors'}"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        for magic, kind in _FOREIGN.items():
            if start.startswith(magic):
                raise CheckpointError(
                    f"{path} is {kind}, which can run code when loaded; it was not opened. "
                    "Needed: a pconv-deploy checkpoint (*.safetensors), as "
                    "pconv_deploy.checkpoint.save_checkpoint writes"
                )
        with safe_open(path, framework="pt") as stored:
            yield stored
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def _fact(path: Path, metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(metadata[_PREFIX + key], type=kind)
    except KeyError:
        raise CheckpointError(f"{path}: its metadata lacks {_PREFIX}{key}") from None
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {_PREFIX}{key}: {error}") from error


def _compare_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]
) -> None:
    complaints = [f"{name} is missing" for name in needed.keys() - found.keys()]
    complaints += [f"{name} is left over" for name in found.keys() - needed.keys()]
    complaints += [
        f"{name}: found {list(found[name])}, needed {list(needed[name])}"
        for name in needed.keys() & found.keys()
        if found[name] != needed[name]
    ]
    if complaints:
        more = f" and {len(complaints) - 5} more" if len(complaints) > 5 else ""
        raise CheckpointError(
            f"{path} does not fit the network it names: {'; '.join(sorted(complaints)[:5])}{more}"
        )
