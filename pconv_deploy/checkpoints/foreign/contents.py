"""Read a file of weights of any format, without trusting it."""

import io
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open

from pconv_deploy.checkpoints.foreign.keras_file import read_hdf5
from pconv_deploy.checkpoints.foreign.torch_file import read_torch_file
from pconv_deploy.errors import CheckpointError, Remedy
from pconv_deploy.file_types import ZIP, Kind, kind_of
from pconv_deploy.held_file import HeldFile

LARGEST_FILE = 8 << 30
_KERAS_WEIGHTS = "model.weights.h5"  # in a .keras archive
# Descriptions of files that are not of a kind that is needed, to follow the file's name.
_KINDS: dict[Kind, str] = {
    "empty": "is empty",
    "hdf5": "is an HDF5 file, as Keras writes them",
    "onnx": "is an ONNX file, no checkpoint",
    "pickle": "is a Python pickle, which can run code when loaded, and torch.save did not write "
    "it; it was not opened",
    "unknown": "is no checkpoint that can be read: neither safetensors, nor written by torch.save, "
    "nor HDF5 as Keras writes it",
}
_BUILD = Remedy(
    purpose="Build an engine from it with",
    command="build-engine",
    arguments=("model.onnx",),
    options={"output": "model.engine"},
)


def read_content(file: HeldFile, kinds: Collection[Kind], needed: str) -> object:
    """Read dictionaries, lists, numbers and tensors, on the CPU.

    Args:
        file: opened by the caller, who hashes it.
        kinds: of files that are accepted.
        needed: the same in words, for errors.

    Raises:
        CheckpointError: too large, of no kind that is read, or damaged.
        MissingRuntimeError: a package that reads such a file is not installed.
    """
    if file.size > LARGEST_FILE:
        raise CheckpointError(
            f"{file.path} has {file.size:,} bytes; at most {LARGEST_FILE:,} are read"
        )
    kind = kind_of(file.start())
    if kind not in kinds:
        raise CheckpointError(
            f"{file.path} {_KINDS.get(kind, 'is ' + kind)}. {needed}",
            _BUILD if kind == "onnx" else None,
        )
    if kind == "safetensors":
        with opened_safetensors(file) as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if kind == "hdf5":
        return read_hdf5(file.path, file.place, file.size)
    if "hdf5" in kinds and (weights := _keras_weights(file)) is not None:
        return read_hdf5(file.path, io.BytesIO(weights), len(weights))
    return read_torch_file(file)


@contextmanager
def opened_safetensors(file: HeldFile) -> Iterator[Any]:
    """Open a safetensors file; its sizes are checked before memory is taken.

    Raises:
        CheckpointError: damaged.
    """
    try:
        with safe_open(file.place, framework="pt") as stored:
            yield stored
    except SafetensorError as error:
        raise CheckpointError(
            f"{file.path} is damaged: a safetensors file that is cut short or was changed. Get it "
            "again"
        ) from error


def _keras_weights(file: HeldFile) -> bytes | None:
    """Return the HDF5 file in a .keras archive; None for any other file."""
    if not file.start().startswith(ZIP):
        return None
    try:
        with zipfile.ZipFile(file.stream) as archive:
            if _KERAS_WEIGHTS not in archive.namelist():
                return None
            entry = archive.getinfo(_KERAS_WEIGHTS)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > file.size:
                raise CheckpointError(
                    f"{file.path} is no archive of Keras: {_KERAS_WEIGHTS} in it is compressed, or "
                    "larger than the file"
                )
            return archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file.path} is damaged: {error}") from error
