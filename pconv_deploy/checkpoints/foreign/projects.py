"""Which project a foreign file belongs to, by the names of its tensors; and reading it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pconv_deploy.checkpoints.foreign import pconv_keras
from pconv_deploy.checkpoints.foreign.canonical import ForeignUNet, canonical_state
from pconv_deploy.checkpoints.foreign.contents import read_content
from pconv_deploy.checkpoints.foreign.keras_file import KERAS3_VARIABLES
from pconv_deploy.checkpoints.foreign.numbered import MMAGIC, NAOTO0804
from pconv_deploy.checkpoints.foreign.tensor_tree import ROOT, Places, Tensors, is_within
from pconv_deploy.checkpoints.foreign.weights import Weights, shown
from pconv_deploy.contract import Family, JsonScalar, Normalisation, UNetConfig
from pconv_deploy.errors import CheckpointError
from pconv_deploy.file_types import CHECKPOINTS
from pconv_deploy.held_file import HeldFile

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
_READ_OF = f"Checkpoints are read of {READABLE}"
_CHOOSE = (
    "Choose one: --weights-key KEY, of export, convert, inspect and verify; other commands take "
    "what convert writes"
)
# What other networks' tensors are called, from the place on where their weights lie.
_OTHERS = (
    (r"dilation_neck\..*", "another inpainting network of MMagic"),
    (r"stage[12]\.(encoder|decoder)\..*", "DeepFill, as in MMagic"),
    (r".*\.ffc\.convl2l\..*", "LaMa"),
    (r"(synthesis|mapping)\..*", "a StyleGAN or what grew from it (CoModGAN, MAT)"),
    (r"features\.\d+\.weight", "a classifier of torchvision (VGG, AlexNet)"),
    (r"block1_conv1/kernel", "VGG, as in Keras"),
    (r"layer1\.0\.conv1\.weight", "a ResNet"),
    (r"Mixed_5b\..*", "an Inception network"),
    (
        r"encoder\.0\.conv\.weight",
        "a state dict of ours without its metadata, which "
        "pconv_deploy.checkpoints.native.save_checkpoint writes beside the weights",
    ),
)


class Reader(Protocol):
    """How one project's tensors become ours."""

    def recognises(self, names: Collection[str], /) -> bool: ...

    def read(self, weights: Weights, /) -> ForeignUNet: ...


_READERS: tuple[Reader, ...] = (NAOTO0804, MMAGIC, pconv_keras)


@dataclass(frozen=True)
class ForeignCheckpoint:
    """Another project's network as ours.

    state  the state dict of `PConvUNet`
    key    where in the file its weights lie; None: they are the file
    """

    network: UNetConfig
    state: Mapping[str, Tensor]
    normalisation: Normalisation
    family: Family
    training: Mapping[str, JsonScalar]
    key: str | None


class _AnyProject:
    """What is looked for in a file: the network of any project that has a reader."""

    def concerns(self, names: Collection[str], /) -> bool:
        return _reader(names) is not None

    def fits(self, _tensors: Tensors, /) -> bool:
        return True  # or its reader says what it lacks


def read_foreign(file: HeldFile, key: str | None = None) -> ForeignCheckpoint:
    """Read another project's checkpoint; what project it is follows from its tensors' names.

    Args:
        file: of torch.save, of Keras or safetensors.
        key: which weights are meant, where a file has several.

    Raises:
        CheckpointError: damaged, of no known project, incomplete, with weights not finite, or with
            several sets of weights and no `key`.
        MissingRuntimeError: h5py is needed and not installed.
    """
    path = file.path
    content = read_content(file, CHECKPOINTS, _READ_OF)
    places = Places(path, content)
    others = tuple(place for place in places.keys if _resembles(places.tensors(place)))
    fitting = {
        place: tensors
        for place, tensors in places.fitting(_AnyProject()).items()
        if not any(is_within(place, other) for other in others)
    }
    place = places.chosen(fitting, key, _CHOOSE)
    if place is None:
        raise CheckpointError(f"{path} {_description(places, key)}")
    tensors = fitting[place]
    reader = _reader(tensors)
    assert reader is not None, "it fits"
    unet = reader.read(Weights(path, tensors))
    network, state = canonical_state(path, unet)
    return ForeignCheckpoint(
        network=network,
        state=state,
        normalisation=unet.normalisation,
        family=unet.family,
        training=_progress(content),
        key=None if place == ROOT else place,
    )


def _reader(names: Collection[str]) -> Reader | None:
    return next((reader for reader in _READERS if reader.recognises(names)), None)


def _resembles(names: Collection[str]) -> str | None:
    for pattern, network in _OTHERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return network
    return None


def _description(places: Places, key: str | None) -> str:
    """What a file holds in which nothing is recognised."""
    there = places.within(key)
    if not there:
        return f"holds no state dict: no dictionary of named tensors. {_READ_OF}"
    networks = [network for place in there if (network := _resembles(places.tensors(place)))]
    # Of places with equally many tensors, the innermost: without the names of what it lies in.
    largest = max((places.tensors(place) for place in there), key=len)
    its = "its only tensor is" if len(largest) == 1 else f"its {len(largest)} tensors are"
    tensors = f"{its} {shown(largest.keys())}. {_READ_OF}"
    if any(KERAS3_VARIABLES in name for name in largest):
        return (
            f"is a file of Keras 3, without the layers of PConv-Keras: {tensors}. Names of layers "
            "are kept by a functional model's model.save('model.h5'), in the code that made it"
        )
    if networks:
        return f"seems to be {networks[0]}; {tensors}"
    return f"is of no project we know; {tensors}. {OWN_NETWORK}"


def _progress(content: object) -> dict[str, JsonScalar]:
    if not isinstance(content, Mapping):
        return {}
    meta = content.get("meta")
    places = [content, *([meta] if isinstance(meta, Mapping) else [])]
    return {
        key: place[key]
        for place in places
        for key in _PROGRESS
        if type(place.get(key)) is int and 0 <= place[key] < 1 << 53
    }
