import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pconv_deploy.checkpoints.native import load_checkpoint, read_header, save_checkpoint
from pconv_deploy.contract import UNetConfig
from pconv_deploy.errors import CheckpointError, InputError, OutputError
from pconv_deploy.files import sha256_of
from pconv_deploy.held_file import HeldFile
from tests.checkpoints.foreign.wrappings import Bomb
from tests.conftest import NORMALISATION, TINY, random_network
from tests.explained import explained


def metadata(**changes: str) -> dict[str, str]:
    facts = {
        "format": "1",
        "network": json.dumps({"channels": TINY.channels, "kernels": TINY.kernels}),
        "normalisation": "{}",
        "training": "{}",
    }
    return {f"pconv_deploy.{k}": v for k, v in (facts | changes).items()}


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    network = random_network(TINY)
    save_checkpoint(path, network, normalisation=NORMALISATION, training={"steps": 7, "data": "x"})
    loaded = load_checkpoint(path)
    assert loaded.normalisation == NORMALISATION
    assert loaded.source.network == TINY
    assert loaded.source.training == {"steps": 7, "data": "x"}
    assert not loaded.model.training
    stored = loaded.model.state_dict()
    assert stored.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert bool((stored[name] == tensor).all()), name
    image, known = torch.randn(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    with torch.no_grad():
        assert bool((loaded.model(image, known) == network(image, known)).all())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused_and_its_code_never_runs(tmp_path: Path, protocol: int) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "pwned"
    path.write_bytes(pickle.dumps(Bomb(witness), protocol=protocol))
    with pytest.raises(CheckpointError, match=r"pickle|damaged"):
        load_checkpoint(path)
    assert not witness.exists()


def test_ours_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for padding in range(0, 256, 8):  # the length of the header is what a file starts with
        save_file({"w": torch.zeros(1)}, path, {"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    with pytest.raises(CheckpointError, match="its only tensor is w"):
        load_checkpoint(path)


def test_truncated(tmp_path: Path, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    for length in (9, 100, len(content) // 2, len(content) - 1):
        path = tmp_path / "short.safetensors"
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"short\.safetensors is damaged.*Get it again$"):
            load_checkpoint(path)


def test_a_header_that_claims_petabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.pth is empty\. Checkpoints are read of naoto0804/"),
        (b"abc", "neither safetensors, nor written by torch.save, nor HDF5"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is no checkpoint that can be read: neither safeten"),
        (
            b"\x08\x0a\x12\x07pytorch" + bytes(99),
            r"is an ONNX file, no .*pconv-deploy build-engine",
        ),
    ],
)
def test_what_is_no_checkpoint_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with explained(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "x.pth")
    assert "ours (.safetensors)" in str(caught.value)
    assert "deserial" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*nothing\.safetensors: No such file"):
        load_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read .*: Is a directory"):
        read_header(tmp_path)


def test_safetensors_of_someone_else(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"author": "me"})
    with explained(
        CheckpointError, match=r"of no known project; its only tensor is w\..*export --module"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "2"}, "format 2; this pconv-deploy reads format 1"),
        ({"network": "{"}, "network"),
        ({"network": '{"channels": [999999], "kernels": [3]}'}, "4096"),
        ({"network": '{"channels": [8, 8], "kernels": [3]}'}, "1 kernels for 2 levels"),
        ({"network": '{"depth": 3}'}, "depth"),
        ({"normalisation": '{"std": [0, 1, 1]}'}, "std"),
    ],
)
def test_bad_metadata_is_named(
    tmp_path: Path, checkpoint: Path, changes: dict[str, str], message: str
) -> None:
    path = tmp_path / "bad.safetensors"
    save_file(load_file(checkpoint), path, metadata(**changes))
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_tensors_that_do_not_fit_are_listed(tmp_path: Path, checkpoint: Path) -> None:
    tensors = load_file(checkpoint)
    del tensors["decoder.0.conv.weight"]
    tensors["encoder.0.conv.bias"] = torch.zeros(9)
    tensors["extra"] = torch.zeros(1)
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path, metadata())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "decoder.0.conv.weight is missing" in text
    assert "encoder.0.conv.bias: found [9], needed [8]" in text
    assert "extra is unexpected" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, checkpoint: Path, value: float) -> None:
    tensors = load_file(checkpoint)
    tensors["encoder.1.conv.weight"][0, 0, 0, 0] = value
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path, metadata())
    with pytest.raises(CheckpointError, match=r"encoder\.1\.conv\.weight holds NaN or infinity"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("encoder.1.norm.running_var", torch.full((12,), -1.0), "variance and holds negative"),
        ("encoder.1.norm.weight", torch.full((12,), 1e300, dtype=torch.float64), "overflows"),
        ("encoder.1.norm.weight", torch.ones(12, dtype=torch.int64), "stored as torch.int64"),
        ("encoder.1.norm.weight", torch.ones(12).to(torch.float8_e4m3fn), "which is not read"),
    ],
)
def test_weights_of_other_kinds(
    tmp_path: Path, checkpoint: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(load_file(checkpoint) | {name: tensor}, path, metadata())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_half_precision_checkpoints_are_read(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.safetensors"
    halved = {k: t.half() if t.is_floating_point() else t for k, t in load_file(checkpoint).items()}
    save_file(halved, path, metadata())
    assert next(load_checkpoint(path).model.parameters()).dtype == torch.float32


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("pconv_deploy.checkpoints.native.save_file", refuse)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(tmp_path / "a.safetensors", random_network(TINY))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file" / "a.safetensors"
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot write .*a\.safetensors"):
        save_checkpoint(path, random_network(UNetConfig(channels=(2,), kernels=(3,))))


def test_the_hash_is_of_the_file_that_was_loaded(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "other.safetensors"
    path.write_bytes(checkpoint.read_bytes())
    save_checkpoint(other, random_network(UNetConfig(channels=(2,), kernels=(3,))))
    hashed = HeldFile.sha256

    def swapped(file: HeldFile) -> str:
        if other.exists():
            os.replace(other, file.path)
        return hashed(file)

    monkeypatch.setattr(HeldFile, "sha256", swapped)
    loaded = load_checkpoint(path)
    assert loaded.model.config == TINY
    assert loaded.source.sha256 == sha256_of(checkpoint)
    assert load_checkpoint(path).model.config != TINY


def test_a_file_that_is_written_to_meanwhile_is_refused(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content := checkpoint.read_bytes())
    os.utime(path, (1, 1))
    hashed = HeldFile.sha256

    def touched(file: HeldFile) -> str:
        file.path.write_bytes(content)
        return hashed(file)

    monkeypatch.setattr(HeldFile, "sha256", touched)
    with pytest.raises(InputError, match="was changed while it was read; run the command again"):
        load_checkpoint(path)
