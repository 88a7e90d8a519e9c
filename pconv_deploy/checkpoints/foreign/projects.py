"""Recognise another project's checkpoint by the names of its tensors, and read it."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pconv_deploy.checkpoints.foreign import pconv_keras
from pconv_deploy.checkpoints.foreign.canonical import ForeignUNet, canonical_state
from pconv_deploy.checkpoints.foreign.contents import read_content
from pconv_deploy.checkpoints.foreign.keras_file import KERAS3_VARIABLES
from pconv_deploy.checkpoints.foreign.numbered import MMAGIC, NAOTO0804
from pconv_deploy.checkpoints.foreign.tensor_tree import ROOT, Tensors, TensorTree, is_within
from pconv_deploy.checkpoints.foreign.weights import Weights, list_names, text_of_name
from pconv_deploy.contract import JsonScalar, Normalisation, Source
from pconv_deploy.errors import CheckpointError, Remedy
from pconv_deploy.file_types import CHECKPOINTS
from pconv_deploy.held_file import HeldFile

# Keys of the training progress.
_PROGRESS = ("n_iter", "iter", "epoch")
READABLE = (
    "naoto0804/pytorch-inpainting-with-partial-conv (.pth), MMagic's PConv (.pth), "
    "MathiasGruber/PConv-Keras (.h5) and ours (.safetensors)"
)
_OWN_NETWORK = Remedy(
    purpose="Weights of a network of your own are exported with its code",
    command="export",
    options={"module": "PACKAGE.MODULE:FACTORY", "weights": "FILE", "output": "model.onnx"},
)
_READ_OF = f"Checkpoints are read of {READABLE}"
_HOW_TO_CHOOSE = (
    "Choose one: --weights-key KEY, of export, convert, inspect and verify; other commands take "
    "what convert writes"
)
# Patterns of tensor names of networks that are not supported.
_UNSUPPORTED = (
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
    """Converts one project's tensors to ours."""

    def recognises(self, names: Collection[str], /) -> bool: ...

    def read(self, weights: Weights, /) -> ForeignUNet: ...


_READERS: tuple[Reader, ...] = (NAOTO0804, MMAGIC, pconv_keras)


class _AnyProject:
    """Matches the network of any project that has a reader."""

    def uses(self, names: Collection[str], /) -> bool:
        return _reader(names) is not None

    def fits(self, _tensors: Tensors, /) -> bool:
        return True  # or its reader says what it lacks


def read_foreign(
    file: HeldFile, key: str | None = None
) -> tuple[Source, Normalisation, dict[str, Tensor]]:
    """Read another project's checkpoint; the project follows from the tensors' names.

    Args:
        file: of torch.save, of Keras or safetensors.
        key: which weights are meant, where a file has several.

    Returns:
        Where they come from, how images are normalised, and the state dict of a `PConvUNet`.

    Raises:
        CheckpointError: damaged, of no known project, incomplete, with weights not finite, or with
            several sets of weights and no `key`.
        MissingRuntimeError: h5py is needed and not installed.
    """
    path = file.path
    content = read_content(file, CHECKPOINTS, _READ_OF)
    tree = TensorTree(path, content)
    others = tuple(branch for branch in tree.keys if _similar_network(tree.tensors(branch)))
    fitting = {
        branch: tensors
        for branch, tensors in tree.fitting(_AnyProject()).items()
        if not any(is_within(branch, other) for other in others)
    }
    branch = tree.choose(fitting, key, _HOW_TO_CHOOSE)
    if branch is None:
        raise _unrecognised(path, tree, key)
    tensors = fitting[branch]
    reader = _reader(tensors)
    assert reader is not None, "it fits"
    unet = reader.read(Weights(path, tensors))
    network, state = canonical_state(path, unet)
    source = Source(
        file=text_of_name(path),
        sha256=file.sha256(),
        network=network,
        family=unet.family,
        training=_training_progress(content),
        weights_key=None if branch == ROOT else branch,
    )
    return source, unet.normalisation, state


def _reader(names: Collection[str]) -> Reader | None:
    return next((reader for reader in _READERS if reader.recognises(names)), None)


def _similar_network(names: Collection[str]) -> str | None:
    for pattern, network in _UNSUPPORTED:
        if any(re.fullmatch(pattern, name) for name in names):
            return network
    return None


def _unrecognised(path: Path, tree: TensorTree, key: str | None) -> CheckpointError:
    """Describe a file in which no project was recognised."""
    there = tree.branches_within(key)
    if not there:
        return CheckpointError(
            f"{path} holds no state dict: no dictionary of named tensors. {_READ_OF}"
        )
    networks = [network for branch in there if (network := _similar_network(tree.tensors(branch)))]
    # Of branches with equally many tensors the innermost: its names are the shortest.
    largest = max((tree.tensors(branch) for branch in there), key=len)
    its = "its only tensor is" if len(largest) == 1 else f"its {len(largest)} tensors are"
    tensors = f"{its} {list_names(largest.keys())}. {_READ_OF}"
    if any(KERAS3_VARIABLES in name for name in largest):
        return CheckpointError(
            f"{path} is a file of Keras 3, without the layers of PConv-Keras: {tensors}. Names of "
            "layers are kept by a functional model's model.save('model.h5'), in the code that made "
            "it"
        )
    if networks:
        return CheckpointError(f"{path} seems to be {networks[0]}; {tensors}")
    return CheckpointError(f"{path} is of no known project; {tensors}", _OWN_NETWORK)


def _training_progress(content: object) -> dict[str, JsonScalar]:
    if not isinstance(content, Mapping):
        return {}
    meta = content.get("meta")
    tree = [content, *([meta] if isinstance(meta, Mapping) else [])]
    return {
        key: branch[key]
        for branch in tree
        for key in _PROGRESS
        if type(branch.get(key)) is int and 0 <= branch[key] < 1 << 53
    }
