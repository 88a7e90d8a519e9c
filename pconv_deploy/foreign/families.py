"""Which project a foreign file belongs to, by the names of its tensors; and reading it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pconv_deploy.contract import Family, JsonScalar, Normalisation, UNetConfig
from pconv_deploy.errors import CheckpointError
from pconv_deploy.file_kinds import kind_of_file
from pconv_deploy.foreign import mmagic, naoto0804, pconv_keras
from pconv_deploy.foreign.canonical import ForeignUNet, canonical_state
from pconv_deploy.foreign.hdf5_file import read_hdf5_file
from pconv_deploy.foreign.torch_file import read_torch_file
from pconv_deploy.foreign.weights import Weights, shown

LARGEST_FILE = 8 << 30
# How far training had come, where a file says so.
_PROGRESS = ("n_iter", "iter", "epoch")
READABLE = (
    "naoto0804/pytorch-inpainting-with-partial-conv (.pth), MMagic's PConv (.pth), "
    "MathiasGruber/PConv-Keras (.h5) and ours (.safetensors)"
)
OWN_NETWORK = (
    "Weights of a network of your own are exported with its code: "
    "pconv-deploy export --module PACKAGE.MODULE:FACTORY --weights FILE -o model.onnx"
)
# What other networks' tensors are called.
_OTHERS = (
    (r"generator\.dilation_neck\..*", "another inpainting network of MMagic"),
    (r"generator\.stage[12]\..*", "DeepFill, as in MMagic"),
    (r".*\.ffc\.convl2l\..*", "LaMa"),
    (r"(generator\.)?(synthesis|mapping)\..*", "a StyleGAN or what grew from it (CoModGAN, MAT)"),
    (r"features\.\d+\.weight", "a classifier of torchvision (VGG, AlexNet)"),
    (r"block1_conv1/kernel", "VGG, as in Keras"),
    (r"layer1\.0\.conv1\.weight", "a ResNet"),
    (r"Mixed_5b\..*", "an Inception network"),
    (
        r"encoder\.0\.conv\.weight",
        "a state dict of ours without its metadata, which "
        "pconv_deploy.checkpoint.save_checkpoint writes beside the weights",
    ),
)


class Reader(Protocol):
    """How one project's tensors become ours."""

    def recognises(self, names: Collection[str], /) -> bool: ...

    def read(self, weights: Weights, /) -> ForeignUNet: ...


_READERS: tuple[Reader, ...] = (naoto0804.LAYOUT, mmagic.LAYOUT, pconv_keras)


@dataclass(frozen=True)
class ForeignCheckpoint:
    """Another project's network as ours: `state` is the state dict of `PConvUNet`."""

    network: UNetConfig
    state: Mapping[str, Tensor]
    normalisation: Normalisation
    family: Family
    training: Mapping[str, JsonScalar]


def read_foreign(path: Path) -> ForeignCheckpoint:
    """Read another project's checkpoint; what project it is follows from its tensors' names.

    Raises:
        CheckpointError: damaged, of no known project, incomplete, or with weights not finite.
        MissingRuntimeError: h5py is needed and not installed.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,} are read"
        )
    hdf5 = kind_of_file(path) == "hdf5"
    content: Any = read_hdf5_file(path) if hdf5 else read_torch_file(path)
    reader, tensors = _recognised(path, content)
    unet = reader.read(Weights(path, tensors))
    network, state = canonical_state(path, unet)
    return ForeignCheckpoint(network, state, unet.normalisation, unet.family, _progress(content))


def _recognised(path: Path, content: Any) -> tuple[Reader, Mapping[str, Tensor]]:
    """Find the one state dict in `content` that one reader knows."""
    candidates = state_dicts(content)
    found = [
        (place, reader)
        for place, tensors in candidates.items()
        for reader in _READERS
        if reader.recognises(tensors) and not _resembles(tensors)
    ]
    if len(found) == 1:
        place, reader = found[0]
        return reader, candidates[place]
    if found:
        raise CheckpointError(
            f"{path} holds more than one network that could be meant: "
            f"{shown([place or 'the file itself' for place, _ in found])}. "
            "Save the state dict of one alone"
        )
    own = any(not _resembles(tensors) for tensors in candidates.values())
    raise CheckpointError(
        f"{path} {_description(candidates)}. Checkpoints are read of {READABLE}"
        + (f". {OWN_NETWORK}" if own else "")
    )


def state_dicts(content: Any) -> dict[str, Mapping[str, Tensor]]:
    """The file's content if it is a state dict, else those among its values; by their key."""
    if not isinstance(content, Mapping):
        return {}
    places = {"": content, **{str(k): v for k, v in content.items() if isinstance(v, Mapping)}}
    return {
        place: _without_wrapper(tensors)
        for place, tensors in places.items()
        if tensors and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items())
    }


def _without_wrapper(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the prefix that torch's DataParallel puts before every name."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _resembles(names: Collection[str]) -> str | None:
    for pattern, network in _OTHERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return network
    return None


def _description(candidates: Mapping[str, Mapping[str, Tensor]]) -> str:
    if not candidates:
        return "holds no state dict: no dictionary of named tensors"
    largest = max(candidates.values(), key=len)
    network = _resembles(largest)
    seems = f"seems to be {network}" if network else "is of no project we know"
    names = shown(largest.keys())
    its = "its only tensor is" if len(largest) == 1 else f"its {len(largest)} tensors are"
    return f"{seems}; {its} {names}"


def _progress(content: Any) -> dict[str, JsonScalar]:
    meta = content.get("meta")
    places = [content, *([meta] if isinstance(meta, Mapping) else [])]
    return {
        key: place[key]
        for place in places
        for key in _PROGRESS
        if type(place.get(key)) is int and 0 <= place[key] < 1 << 53
    }
