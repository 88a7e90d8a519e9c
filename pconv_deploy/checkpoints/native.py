"""Save and load checkpoints: ours are safetensors, with all other facts in the metadata.

Metadata keys (each value JSON): `pconv_deploy.format`, `pconv_deploy.network`,
`pconv_deploy.normalisation`, `pconv_deploy.family`, `pconv_deploy.training`. Tensor names are the
network's state dict.

The first bytes say what a file is; `pconv_deploy.checkpoints.foreign` reads other projects' files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pconv_deploy.checkpoints.foreign.contents import opened_safetensors
from pconv_deploy.checkpoints.foreign.projects import read_foreign
from pconv_deploy.checkpoints.foreign.weights import text_of_name
from pconv_deploy.contract import (
    NETWORK_FILE,
    Family,
    JsonScalar,
    Normalisation,
    Source,
    UNetConfig,
)
from pconv_deploy.errors import CheckpointError, OutputError, UsageError
from pconv_deploy.file_types import kind_of
from pconv_deploy.files import atomic_file
from pconv_deploy.held_file import HeldFile, held_file
from pconv_deploy.network.architectures import Network, build_network

CHECKPOINT_FORMAT = 1
_PREFIX = "pconv_deploy."
# Accepted types, by whether the network needs floating point (weights) or integers (counters).
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
    """The facts in a checkpoint; `shapes` by tensor name."""

    source: Source
    normalisation: Normalisation
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def network(self) -> UNetConfig:
        assert self.source.network is not None
        return self.source.network


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


def read_header(path: Path, *, weights_key: str | None = None) -> CheckpointHeader:
    """Read a checkpoint's facts: ours without its tensors, others whole.

    Raises:
        CheckpointError, MissingRuntimeError, UsageError: as `load_checkpoint`.
    """
    with _open_file(path) as file:
        if _is_own(file, weights_key):
            return _read_own_header(file)
        return _read_foreign(file, weights_key)[0]


def load_checkpoint(path: Path | str, *, weights_key: str | None = None) -> Checkpoint:
    """Read a checkpoint of ours or of another project; sizes are checked before allocating.

    Args:
        path: of the file.
        weights_key: which weights are meant, where another project's file holds several sets.

    Raises:
        CheckpointError: missing, of an unsupported format, damaged, with missing or unexpected
            tensors or wrong shapes, not finite, or with several sets of weights and no key.
        MissingRuntimeError: a package that reads such a file is not installed.
        UsageError: a key was given, and the checkpoint is ours, which holds one set.
    """
    path = Path(path)
    with _open_file(path) as file:
        if _is_own(file, weights_key):
            header, stored = _read_own(file)
        else:
            header, stored = _read_foreign(file, weights_key)
        model = build_network(header.network)
        model.load_state_dict(  # copies: from here on the file is not needed
            {
                name: _checked_tensor(path, name, stored[name], target.dtype)
                for name, target in model.state_dict().items()
            }
        )
    return Checkpoint(model.eval(), header.normalisation, header.source)


def convert_checkpoint(
    path: Path, output: Path, *, overwrite: bool = False, weights_key: str | None = None
) -> Checkpoint:
    """Convert a checkpoint of any supported format to ours.

    Raises:
        CheckpointError, MissingRuntimeError: as `load_checkpoint`.
        UsageError: as `load_checkpoint`; or `output` exists and `overwrite` is false, or it is
            `path` itself.
        OutputError: it could not be written.
    """
    if output.resolve() == path.resolve():
        raise UsageError(f"{output} is the checkpoint itself; choose another name")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} already exists; pass --overwrite to replace it")
    checkpoint = load_checkpoint(path, weights_key=weights_key)
    source = checkpoint.source
    save_checkpoint(
        output,
        checkpoint.model,
        normalisation=checkpoint.normalisation,
        training=source.training,
        family=source.family,
    )
    return checkpoint


def is_own_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint of ours; raises CheckpointError if unreadable."""
    with _open_file(path) as file:
        return _is_own(file)


@contextmanager
def _open_file(path: Path) -> Iterator[HeldFile]:
    try:
        if (network := path / NETWORK_FILE).is_file():
            raise CheckpointError(f"{path} is a training run; its checkpoint is {network}")
        with held_file(path) as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _is_own(file: HeldFile, weights_key: str | None = None) -> bool:
    if kind_of(file.start()) != "safetensors":
        return False
    with opened_safetensors(file) as stored:
        own = any(key.startswith(_PREFIX) for key in stored.metadata() or {})
    if own and weights_key is not None:
        raise UsageError(
            f"{file.path} is a checkpoint of ours and holds one set of weights; leave "
            "--weights-key out"
        )
    return own


def _read_foreign(file: HeldFile, key: str | None) -> tuple[CheckpointHeader, Mapping[str, Tensor]]:
    source, normalisation, state = read_foreign(file, key)
    header = CheckpointHeader(source, normalisation, {n: tuple(t.shape) for n, t in state.items()})
    _compare_shapes(file.path, header)
    return header, state


def _read_own(file: HeldFile) -> tuple[CheckpointHeader, Mapping[str, Tensor]]:
    header = _read_own_header(file)
    _compare_shapes(file.path, header)
    with opened_safetensors(file) as stored:
        return header, {name: stored.get_tensor(name) for name in header.shapes}


def _read_own_header(file: HeldFile) -> CheckpointHeader:
    path = file.path
    with opened_safetensors(file) as stored:
        metadata = stored.metadata() or {}
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    if (found := metadata.get(_PREFIX + "format")) != str(CHECKPOINT_FORMAT):
        raise CheckpointError(
            f"{path} has checkpoint format {found}; this pconv-deploy reads format "
            f"{CHECKPOINT_FORMAT}. Upgrade pconv-deploy"
        )
    source = Source(
        file=text_of_name(path),
        sha256=file.sha256(),
        network=_decode_metadata(path, metadata, "network", UNetConfig),
        # Older files do not say.
        family=_decode_metadata(path, {_PREFIX + "family": "{}"} | metadata, "family", Family),
        training=_decode_metadata(path, metadata, "training", dict[str, JsonScalar]),
    )
    normalisation = _decode_metadata(path, metadata, "normalisation", Normalisation)
    return CheckpointHeader(source, normalisation, shapes)


def _checked_tensor(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype not in _STORED_AS[dtype.is_floating_point]:
        raise CheckpointError(f"{path}: {name} is stored as {tensor.dtype}, which is not read")
    converted = tensor.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinity, or overflows {dtype}")
    if name.endswith("running_var") and bool((converted < 0).any()):
        raise CheckpointError(f"{path}: {name} is a variance and holds negative values")
    return converted


def _decode_metadata(path: Path, metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(metadata[_PREFIX + key], type=kind)
    except KeyError:
        raise CheckpointError(f"{path}: its metadata lacks {_PREFIX}{key}") from None
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {_PREFIX}{key}: {error}") from error


def _compare_shapes(path: Path, header: CheckpointHeader) -> None:
    with torch.device("meta"):
        network = build_network(header.network)
    needed = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = header.shapes
    complaints = [f"{name} is missing" for name in needed.keys() - found.keys()]
    complaints += [f"{name} is unexpected" for name in found.keys() - needed.keys()]
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
