"""Checkpoints: ours are safetensors, with everything but the tensors in the metadata.

Metadata keys (each value JSON): `pconv_deploy.format`, `pconv_deploy.network`,
`pconv_deploy.normalisation`, `pconv_deploy.family`, `pconv_deploy.training`. Tensor names are the
network's state dict.

What a file is follows from its first bytes; other projects' go to `pconv_deploy.foreign`.
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

from pconv_deploy.contract import (
    NETWORK_FILE,
    Family,
    JsonScalar,
    Normalisation,
    Source,
    UNetConfig,
)
from pconv_deploy.errors import CheckpointError, OutputError, UsageError
from pconv_deploy.file_kinds import kind_of_file
from pconv_deploy.files import atomic_file, sha256_of
from pconv_deploy.foreign.families import OWN_NETWORK, READABLE, read_foreign
from pconv_deploy.networks import Network, build_network

CHECKPOINT_FORMAT = 1
_PREFIX = "pconv_deploy."
# What is told of files that are no checkpoint, by their kind; the file's name comes before it.
_NO_CHECKPOINT = {
    "empty": "is empty",
    "onnx": "is an ONNX file, no checkpoint; build an engine from it with: "
    "pconv-deploy build-engine model.onnx -o model.engine",
    "pickle": "is a Python pickle, which can run code when loaded, and torch.save did not write "
    "it; it was not opened",
    "unknown": "is no checkpoint that can be read: neither safetensors, nor written by torch.save, "
    "nor HDF5 as Keras writes it",
}
# By whether the network wants floating point (weights) or whole numbers (counters).
_STORED_AS = {
    True: {torch.float16, torch.bfloat16, torch.float32, torch.float64},
    False: {torch.int32, torch.int64},
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
    family: Family
    training: Mapping[str, JsonScalar]
    shapes: Mapping[str, tuple[int, ...]]


def save_checkpoint(
    path: Path | str,
    model: Network,
    *,
    normalisation: Normalisation | None = None,
    training: Mapping[str, JsonScalar] | None = None,
    family: Family | None = None,
    half: bool = False,
) -> None:
    """Write `model` to `path`, whole or not at all.

    Args:
        path: of the new file, by custom `*.safetensors`.
        model: its weights and its configuration are stored.
        normalisation: of the images it was trained on; -1..1 if not given.
        training: facts worth keeping, such as data set, steps, seed.
        family: the project it comes from, if not from ours.
        half: store weights in half precision; they are read back in single precision.

    Raises:
        OutputError: it could not be written.
    """
    facts = {
        "format": CHECKPOINT_FORMAT,
        "network": model.config,
        "normalisation": normalisation or Normalisation(),
        "training": dict(training or {}),
        "family": family or Family(),
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
    """Read what a checkpoint says of itself: ours without its tensors, others whole.

    Raises:
        CheckpointError: missing, of another format, damaged.
        MissingRuntimeError: a package that reads such a file is not installed.
    """
    return _read_foreign(path)[0] if _is_foreign(path) else _read_own_header(path)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of ours or of another project; sizes are checked before memory is taken.

    Raises:
        CheckpointError: missing, of no format that is read, damaged, with tensors missing, left
            over or of wrong shape, or with weights that are not finite.
        MissingRuntimeError: a package that reads such a file is not installed.
    """
    path = Path(path)
    header, stored = _read_foreign(path) if _is_foreign(path) else _read_own(path)
    model = build_network(header.network)
    model.load_state_dict(
        {
            name: _converted(path, name, stored[name], target.dtype)
            for name, target in model.state_dict().items()
        }
    )
    source = Source(
        file=path.name.encode(errors="replace").decode(),  # names need not be Unicode
        sha256=sha256_of(path),
        network=header.network,
        family=header.family,
        training=dict(header.training),
    )
    return Checkpoint(model.eval(), header.normalisation, source)


def convert_checkpoint(path: Path, output: Path, *, overwrite: bool = False) -> Checkpoint:
    """Write a checkpoint of any format that is read as one of ours.

    Raises:
        CheckpointError, MissingRuntimeError: as `load_checkpoint`.
        UsageError: `output` exists and `overwrite` is false, or it is `path` itself.
        OutputError: it could not be written.
    """
    if output.resolve() == path.resolve():
        raise UsageError(f"{output} is the checkpoint itself; choose another name")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} already exists; pass --overwrite to replace it")
    checkpoint = load_checkpoint(path)
    source = checkpoint.source
    save_checkpoint(
        output,
        checkpoint.model,
        normalisation=checkpoint.normalisation,
        training=source.training,
        family=source.family,
    )
    return checkpoint


def _is_foreign(path: Path) -> bool:
    if (path / NETWORK_FILE).is_file():
        raise CheckpointError(f"{path} is a training run; its checkpoint is {path / NETWORK_FILE}")
    with _reading(path):
        kind = kind_of_file(path)
    if why := _NO_CHECKPOINT.get(kind):
        raise CheckpointError(f"{path} {why}. Checkpoints are read of {READABLE}")
    return kind != "safetensors"


def _read_foreign(path: Path) -> tuple[CheckpointHeader, Mapping[str, Tensor]]:
    with _reading(path):
        foreign = read_foreign(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in foreign.state.items()}
    _compare_shapes(path, shapes, _needed_shapes(foreign.network))
    header = CheckpointHeader(
        network=foreign.network,
        normalisation=foreign.normalisation,
        family=foreign.family,
        training=foreign.training,
        shapes=shapes,
    )
    return header, foreign.state


def _read_own(path: Path) -> tuple[CheckpointHeader, Mapping[str, Tensor]]:
    header = _read_own_header(path)
    _compare_shapes(path, header.shapes, _needed_shapes(header.network))
    with _opened(path) as stored:
        return header, {name: stored.get_tensor(name) for name in header.shapes}


def _needed_shapes(network: UNetConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build_network(network).state_dict().items()}


def _read_own_header(path: Path) -> CheckpointHeader:
    with _opened(path) as stored:
        metadata = stored.metadata() or {}
        found = metadata.get(_PREFIX + "format")
        if found is None:
            raise CheckpointError(
                f"{path} is a safetensors file, but not a pconv-deploy checkpoint: its metadata "
                f"lacks {_PREFIX}format (found: {', '.join(sorted(metadata)) or 'none'}). "
                "Write checkpoints with pconv_deploy.checkpoint.save_checkpoint. " + OWN_NETWORK
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
        # Older files do not say.
        family=_fact(path, {_PREFIX + "family": "{}"} | metadata, "family", Family),
        training=_fact(path, metadata, "training", dict[str, JsonScalar]),
        shapes=shapes,
    )


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
    try:
        with _reading(path), safe_open(path, framework="pt") as stored:
            yield stored
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged: a safetensors file that is cut short or was changed. Get it again"
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


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
