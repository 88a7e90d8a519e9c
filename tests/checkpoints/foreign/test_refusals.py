"""What is refused, and in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.errors import CheckpointError
from tests.checkpoints.foreign.projects import (
    Array,
    keras_layers,
    mmagic_state,
    naoto_state,
    write_keras,
)
from tests.checkpoints.foreign.wrappings import saved
from tests.conftest import TINY, random_network
from tests.explained import explained

State = dict[str, Tensor]


def without(name: str) -> Callable[[State], object]:
    return lambda state: {k: t for k, t in state.items() if k != name}


def plus(**extra: Any) -> Callable[[State], object]:
    return lambda state: state | {k.replace("__", "."): value for k, value in extra.items()}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], object]:
    return lambda state: state | {name: change(state[name].clone())}


def poisoned(*names: str) -> Callable[[State], object]:
    return lambda state: state | {name: state[name] * float("nan") for name in names}


MISSING = r"looks like a network of {}, but does not fit one of partial convolutions: "
NAOTO, MMAGIC = MISSING.format("naoto0804"), MISSING.format("mmagic")
WEIGHT = "conv.input_conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"dec_2.{WEIGHT}"), NAOTO + rf"missing: dec_2\.{WEIGHT}$"),
        (without("enc_3.bn.running_var"), NAOTO + r"missing: enc_3\.bn\.running_var$"),
        (without("dec_1.conv.input_conv.bias"), NAOTO + r"missing: dec_1\.conv\.input_conv\.bias$"),
        (plus(enc_1__bn__weight=torch.ones(5)), NAOTO + r"unexpected: enc_1\.bn\.weight$"),
        (plus(attention=torch.ones(5)), NAOTO + r"unexpected: attention$"),
        (
            lambda state: {k: t for k, t in state.items() if not k.startswith("dec")},
            NAOTO + r"missing: dec_1\.conv.* and 4 more$",
        ),
        (
            poisoned("enc_1.conv.input_conv.weight", "dec_3.bn.bias"),
            rf"holds NaN or infinity in dec_3\.bn\.bias, enc_1\.{WEIGHT}$",
        ),
        (
            changed("enc_2.conv.mask_conv.weight", lambda t: t * 0.5),
            r"enc_2\.conv\.mask_conv\.weight \[6, 5, 5, 5\] sums the masks.*all ones",
        ),
        (
            changed(f"dec_2.{WEIGHT}", lambda t: t[:, :9]),
            r"dec_2\.conv\.mask_conv\.weight \[5, 11, 3, 3\].*needed \[5, 9, 3, 3\]",
        ),
        (
            changed("enc_2.bn.bias", lambda t: t[:3]),
            r"enc_2: bias or batch norm has shape \[3\], needed \[6\]",
        ),
        (
            changed("enc_2.bn.running_var", lambda t: -t),
            r"enc_2: a variance of its batch norm is negative",
        ),
        (
            changed(f"enc_2.{WEIGHT}", lambda t: t.long()),
            rf"enc_2\.{WEIGHT} is torch\.int64 \[6, 5, 5, 5\]; needed dense floating point of 4",
        ),
        (
            changed(f"enc_2.{WEIGHT}", lambda t: t.to_sparse()),
            # Torch 2.14 does not come as far as the name.
            rf"(enc_2\.{WEIGHT} .*|holds sparse tensors; )needed dense floating point",
        ),
        (
            changed(f"enc_2.{WEIGHT}", lambda t: t[..., :3]),
            r"enc_2 has a window that is not square",
        ),
        (
            lambda state: {"a": state, "b": {k: t * 2 for k, t in state.items()}},
            r"holds 2 sets of weights that fit: a, b\. Choose one: --weights-key KEY",
        ),
        (lambda state: state | mmagic_state(), r"2 sets of weights that fit: \., generator\. "),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path, change(dict(naoto_state()))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(f"dec_2.{WEIGHT}", lambda t: t[:, :9]), r"\[5, 9, 3, 3\].*\[5, 11, 3, 3\]"),
        (changed(f"enc_2.{WEIGHT}", lambda t: t[..., :4, :4]), r"of naoto0804, but .*odd sizes"),
    ],
)
def test_layers_that_do_not_fit_ours(
    tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    state = {k: t for k, t in naoto_state().items() if "mask_conv" not in k}
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path, change(state)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("generator.encoder.enc1.conv.bias"),
            MMAGIC + r"missing: encoder\.enc1\.conv\.bias$",
        ),
        (
            changed("generator.encoder.enc2.conv.weight_mask_updater", lambda t: t[:1, :1]),
            r"enc2\.conv\.weight_mask_updater \[1, 1, 5, 5\] sums.*\[6, 5, 5, 5\], all ones",
        ),
    ],
)
def test_mmagic_files_that_do_not_fit(
    tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    content = {"state_dict": change(dict(mmagic_state()))}
    with explained(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path, content))


Layers = list[tuple[str, dict[str, Array]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda layers: layers.pop(0),
            r"has 5 partial convolutions \(p_conv2d, .*needed 2 n, n - 1, n - 1 and 1",
        ),
        (lambda layers: layers.pop(2), r"1 batch norms of the encoder \(EncBN2\)"),
        (lambda layers: layers.pop(), r"0 ordinary convolutions"),
        (
            lambda layers: layers[2][1].pop("beta"),
            r"network of pconv-keras, but .*missing: EncBN1/beta$",
        ),
        (lambda layers: layers[0][1].pop("bias"), r"missing: p_conv2d/bias$"),
        (
            lambda layers: layers[2][1]["gamma"].fill(np.inf),
            r"holds NaN or infinity in EncBN1/gamma$",
        ),
    ],
)
def test_keras_files_that_do_not_fit(
    tmp_path: Path, change: Callable[[Layers], object], message: str
) -> None:
    layers = keras_layers()
    change(layers)
    write_keras(tmp_path / "a.h5", layers)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (["features.0.weight", "classifier.0.weight"], "a classifier of torchvision"),
        (["conv1.weight", "layer1.0.conv1.weight"], "a ResNet"),
        (["block1_conv1/kernel"], "VGG, as in Keras"),
        (["Mixed_5b.branch1x1.conv.weight"], "an Inception network"),
        (["generator.stage1.encoder.enc1.conv.weight"], "DeepFill, as in MMagic"),
        (["generator.model.1.ffc.convl2l.weight"], "LaMa"),
        (["synthesis.b4.conv1.weight", "mapping.fc0.weight"], "a StyleGAN or what grew from it"),
        (
            ["generator.encoder.enc1.conv.weight", "generator.dilation_neck.0.weight"],
            "another inpainting network of MMagic",
        ),
    ],
)
def test_other_networks_are_named(tmp_path: Path, names: list[str], network: str) -> None:
    content = {"state_dict": {name: torch.ones(1) for name in names}}
    with pytest.raises(
        CheckpointError, match=rf"seems to be {network}.*Checkpoints are read of"
    ) as caught:
        load_checkpoint(saved(tmp_path, content))
    assert "--module" not in str(caught.value)


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved(tmp_path, {"\x1b[2J" + "x" * 100_000: torch.ones(1)}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_another_network_of_keras_3_is_told_how_to_keep_its_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["functional/layers/dense/vars/0"] = np.ones((2, 2), np.float32)
    with pytest.raises(CheckpointError, match=r"of Keras 3, without.*model\.save\('model\.h5'\)"):
        load_checkpoint(tmp_path / "a.weights.h5")


def test_our_own_weights_without_their_metadata(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state dict of ours without.*save_checkpoint"):
        load_checkpoint(saved(tmp_path, random_network(TINY).state_dict()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"w": torch.ones(1)},
            r"is of no known project; its only tensor is w\. Checkpoints are read .*"
            "export --module PACKAGE.MODULE:FACTORY --weights FILE",
        ),
        ({"epoch": 3}, "holds no state dict"),
        ([torch.ones(1)], "holds no state dict"),
        (torch.ones(1), "holds no state dict"),
        (7, "holds no state dict"),
    ],
)
def test_files_without_a_network(tmp_path: Path, content: object, message: str) -> None:
    with explained(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path, content))
