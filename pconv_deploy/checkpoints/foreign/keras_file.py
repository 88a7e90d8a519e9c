"""Read HDF5 files of Keras 2 and 3: the datasets, and nothing they point at.

Keras 3 (.weights.h5, .keras) numbers a layer's variables, and names layers by their class, in the
order of the model: `layers/batch_normalization_2/vars/0`. The names of layers are lost, their order
is not, so the tensors are renamed as Keras 2 names them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pconv_deploy.errors import CheckpointError, MissingRuntimeError

_DEEPEST, _MOST_ITEMS, _LONGEST_NAME = 6, 20_000, 500  # groups and datasets are items
_WHOLE_MODEL, _OPTIMIZERS = "model_weights", ("optimizer_weights", "optimizer")
KERAS3_VARIABLES = "/vars/"
_VARIABLE = re.compile(r"layers/(?P<kind>\w+?)(?:_(?P<number>\d+))?/vars/(?P<variable>\d+)")
_NORM = "batch_normalization"
_PARTS = {
    _NORM: ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "p_conv2d": ("img_kernel", "bias", "kernel_mask"),
}


def read_hdf5(path: Path, source: Path | BinaryIO, size: int) -> dict[str, Tensor]:
    """Read the weights as `layer/weight`, such as `p_conv2d_3/img_kernel`.

    Files of a whole model are read as well; its optimiser is left out.

    Args:
        path: of the file, for messages.
        source: where it is read.
        size: its bytes.

    Raises:
        CheckpointError: damaged, claiming more than it holds, or pointing elsewhere.
        MissingRuntimeError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(
            f"{path} is HDF5, and reading it needs h5py, which is not installed: "
            "pip install 'pconv-deploy[export]'"
        ) from error
    try:
        with h5py.File(source, "r") as file:
            datasets = list(_datasets(path, file))
            _require_bounded(path, datasets, size)
            tensors = {
                name: torch.from_numpy(np.asarray(item[()], dtype=item.dtype.newbyteorder("=")))
                for name, item in datasets
            }
            return _named_as_keras2(tensors)
    except CheckpointError:
        raise
    except Exception as error:  # of any kind: the file decides
        reason = str(error).replace(str(source), str(path))
        raise CheckpointError(f"{path} is damaged: {reason[:200]}") from error


def _datasets(path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    import h5py

    groups, items = [("", file, 0)], 0
    while groups:
        place, group, depth = groups.pop()
        for name in group:
            items += 1  # groups may hold each other, many times over
            if items > _MOST_ITEMS:
                raise CheckpointError(f"{path} has more than {_MOST_ITEMS:,} groups and datasets")
            here = f"{place}/{name}".lstrip("/")
            if here in _OPTIMIZERS:
                continue
            if len(here) > _LONGEST_NAME or not here.isprintable():
                raise CheckpointError(f"{path} is damaged: it holds {here[:80]!a}")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(f"{path}: {here} is a link; links are not followed")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield _weight_name(here), item
            elif depth < _DEEPEST:
                groups.append((here, item, depth + 1))
            else:
                raise CheckpointError(f"{path}: {here} lies deeper than {_DEEPEST} groups")


def _weight_name(place: str) -> str:
    """`p_conv2d_3/p_conv2d_3/img_kernel:0` -> `p_conv2d_3/img_kernel`; names of Keras 3 stay."""
    if KERAS3_VARIABLES in place:
        return place
    parts = place.removeprefix(f"{_WHOLE_MODEL}/").split("/")
    return f"{parts[0]}/{parts[-1].partition(':')[0]}"


def _require_bounded(path: Path, datasets: Sequence[tuple[str, Any]], size: int) -> None:
    claimed = 0
    for name, count in Counter(name for name, _ in datasets).items():
        if count > 1:
            raise CheckpointError(f"{path} holds {name} {count} times")
    for name, dataset in datasets:
        if dataset.is_virtual or dataset.external:
            raise CheckpointError(f"{path}: {name} lies in another file; save the weights into one")
        if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8 or dataset.shape is None:
            raise CheckpointError(
                f"{path}: {name} is {dataset.dtype} {dataset.shape}; needed floating point"
            )
        claimed += math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > size:
        raise CheckpointError(
            f"{path} is damaged: its datasets claim {claimed:,} bytes, the file has {size:,} "
            "(compressed datasets are not read)"
        )


def _named_as_keras2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename known variables; the reader refuses other names.

    The first half of the batch norms is the encoder's, which PConv-Keras calls EncBN1, EncBN2, ...
    """
    found = {name: match for name in tensors if (match := _VARIABLE.fullmatch(name))}
    norms = {int(m["number"] or 0) for m in found.values() if m["kind"] == _NORM}
    encoder = sorted(norms)[: len(norms) // 2]
    renamed = {}
    for name, tensor in tensors.items():
        match = found.get(name)
        kind, number = (match["kind"], int(match["number"] or 0)) if match else ("", 0)
        parts = _PARTS.get(kind, ())
        if match and int(match["variable"]) < len(parts):
            encodes = kind == _NORM and number in encoder
            layer = f"EncBN{number + 1}" if encodes else f"{kind}_{number}"
            name = f"{layer}/{parts[int(match['variable'])]}"
        renamed[name] = tensor
    return renamed
