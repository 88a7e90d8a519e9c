"""What a file is recognised by, what is recorded of its project."""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from pconv_deploy.checkpoints.native import convert_checkpoint, load_checkpoint, read_header
from pconv_deploy.contract import Family, Normalisation, Source, UNetConfig
from pconv_deploy.errors import CheckpointError, UsageError
from tests.checkpoints.foreign.projects import (
    CHANNELS,
    KERNELS,
    keras_layers,
    mmagic_state,
    naoto_state,
    write_keras,
    write_keras3,
)
from tests.checkpoints.foreign.wrappings import saved

State = dict[str, Tensor]


def same_weights(path: Path, other: Path) -> bool:
    one, two = (load_checkpoint(p).model.state_dict() for p in (path, other))
    return one.keys() == two.keys() and all(bool((one[k] == two[k]).all()) for k in one)


def written(path: Path, project: str) -> Path:
    if project == "pconv-keras":
        write_keras(path / "a.h5", keras_layers())
        return path / "a.h5"
    if project == "mmagic":
        meta = {"iter": 500_000, "env": "linux"}
        return saved(path, {"meta": meta, "state_dict": mmagic_state()})
    return saved(path, {"n_iter": 1_000_000, "model": naoto_state(), "optimizer": {"state": {}}})


CONVENTIONS: dict[str, tuple[Any, ...]] = {
    "naoto0804": (
        ("hole-black", "bilinear"),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        {"n_iter": 1_000_000},
        "linear",
    ),
    "mmagic": (
        ("hole-white", None),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        {"iter": 500_000},
        "linear",
    ),
    "pconv-keras": (("hole-black", None), ((0, 0, 0), (1, 1, 1)), {}, "sigmoid"),
}


@pytest.mark.parametrize("project", CONVENTIONS)
def test_conventions_are_recorded(tmp_path: Path, project: str) -> None:
    (mask_convention, mask_scaling), (mean, std), training, head = CONVENTIONS[project]
    loaded = load_checkpoint(written(tmp_path, project))
    assert loaded.source.family == Family(
        name=project, mask_convention=mask_convention, mask_scaling=mask_scaling
    )
    assert loaded.normalisation == Normalisation(mean=mean, std=std)
    assert loaded.source.training == training
    assert loaded.model.config.head == head


def test_contracts_from_before_families_are_read() -> None:
    facts = {
        "file": "a.safetensors",
        "sha256": "0" * 64,
        "network": {"channels": [8], "kernels": [3]},
    }
    source = msgspec.convert(facts, Source)
    assert source.family == Family()
    assert source.network == UNetConfig(channels=(8,), kernels=(3,))


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    torch.save(naoto_state(), tmp_path / "weights.safetensors")
    assert read_header(tmp_path / "weights.safetensors").source.family.name == "naoto0804"
    write_keras(tmp_path / "weights.pth", keras_layers())
    assert read_header(tmp_path / "weights.pth").source.family.name == "pconv-keras"


def test_every_way_to_save_the_same_weights(tmp_path: Path) -> None:
    state = naoto_state()
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    bare = {k: t for k, t in state.items() if "mask_conv" not in k and "num_batches" not in k}
    contents: dict[str, object] = {
        "old": {"n_iter": 1, "model": state},
        "new": {"n_iter": 1, "model": state},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "without what is no weight": bare,
        "parameters": {name: torch.nn.Parameter(t) for name, t in bare.items()},
        "double": {name: tensor.double() for name, tensor in state.items()},
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=name != "old")
        assert same_weights(plain, path), name


def test_half_precision_weights_are_read(tmp_path: Path) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in naoto_state().items()}
    loaded = load_checkpoint(saved(tmp_path, state))
    assert next(loaded.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("first", [0, 1, 8, 97])
def test_keras_layers_are_ordered_by_number(tmp_path: Path, first: int) -> None:
    layers = keras_layers()
    write_keras(tmp_path / "a.h5", layers)
    write_keras(tmp_path / "b.h5", layers, first=first)
    assert same_weights(tmp_path / "a.h5", tmp_path / "b.h5")


def test_keras_files_of_a_whole_model(tmp_path: Path) -> None:
    layers = keras_layers()
    write_keras(tmp_path / "a.h5", layers)
    write_keras(tmp_path / "b.h5", layers, place="model_weights")
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file["optimizer_weights/Adam/iterations:0"] = 7
    assert same_weights(tmp_path / "a.h5", tmp_path / "b.h5")


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("archive", [False, True])
def test_files_of_keras_3(tmp_path: Path, masks: bool, archive: bool) -> None:
    layers = keras_layers()
    path = tmp_path / "b.weights.h5"
    write_keras(tmp_path / "a.h5", layers)
    write_keras3(path, layers, masks=masks)
    if archive:
        with zipfile.ZipFile(tmp_path / "b.keras", "w") as stored:
            stored.writestr("config.json", "{}")
            stored.write(path, "model.weights.h5")
        path = tmp_path / "b.keras"
    assert same_weights(tmp_path / "a.h5", path)


@pytest.mark.parametrize("name", ["Variable", "kernel_mask", "Variable_7"])
def test_keras_kernels_that_sum_masks_are_left_out_if_they_are_ones(
    tmp_path: Path, name: str
) -> None:
    layers = keras_layers()
    write_keras(tmp_path / "a.h5", layers)
    for _, parts in layers:
        if "img_kernel" in parts:
            parts[name] = np.ones_like(parts["img_kernel"])
    write_keras(tmp_path / "b.h5", layers)
    assert same_weights(tmp_path / "a.h5", tmp_path / "b.h5")
    layers[0][1][name][0, 0, 0, 0] = 0
    write_keras(tmp_path / "c.h5", layers)
    with pytest.raises(CheckpointError, match=rf"p_conv2d/{name} .* sums the masks.*all ones"):
        load_checkpoint(tmp_path / "c.h5")


def test_converting_keeps_weights_and_origin(tmp_path: Path) -> None:
    path, output = tmp_path / "a.h5", tmp_path / "ours.safetensors"
    write_keras(path, keras_layers())
    convert_checkpoint(path, output)
    assert same_weights(path, output)
    one, two = load_checkpoint(path), load_checkpoint(output)
    assert two.source.family == one.source.family
    assert two.model.config == one.model.config
    assert (two.model.config.channels, two.model.config.kernels) == (CHANNELS, KERNELS)
    assert two.normalisation == one.normalisation
    with pytest.raises(UsageError, match="already exists; pass --overwrite"):
        convert_checkpoint(path, output)
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        convert_checkpoint(path, path, overwrite=True)
