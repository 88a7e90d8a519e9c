"""Files that want more than to be read: code, memory, other files; and broken ones."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import re
import resource
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.errors import CheckpointError, MissingRuntimeError
from tests.checkpoints.foreign.projects import (
    keras_layers,
    mmagic_state,
    naoto_state,
    write_keras,
)
from tests.checkpoints.foreign.wrappings import Bomb


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    write_keras(tmp_path / "weights.h5", keras_layers())
    return tmp_path / "weights.h5"


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs_and_is_named(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "pwned"
    content = {"model": naoto_state(), "note": Bomb(witness)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"objects of posix\.mkdir, and making one would run"):
        load_checkpoint(path)
    assert not witness.exists()


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.conv\.Conv2d.*state_dict\(\)"):
        load_checkpoint(path)


def test_the_advised_command_keeps_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    content = {
        "generator": naoto_state(),
        "history": collections.deque([collections.defaultdict(list)]),
        "critic": torch.nn.Conv2d(1, 1, 1),
        "nested": [{"more": (1, Fraction(1, 3))}],
    }
    torch.save(content, path, pickle_protocol=5)
    message = r"written as torch\.load\(weights_only=True\) does not.*you trust its author"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    run_advised(caught.value, path)
    loaded = load_checkpoint(tmp_path / "weights.pth")
    assert loaded.source.weights_key == "generator"


def run_advised(error: Exception, path: Path) -> None:
    """Run the command in a message, with the file's name in it, in the file's folder."""
    advised = re.search('python -c "(.+?)"', str(error))
    assert advised is not None
    run_code(advised[1].replace("FILE", path.name), path.parent)


def run_code(code: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=folder)


def test_the_command_advised_for_torchscript_keeps_the_weights(tmp_path: Path) -> None:
    code = "import torch; torch.jit.script(torch.nn.Linear(2, 3)).save('program.pt')"
    run_code(code, tmp_path)
    with pytest.raises(CheckpointError, match="is a TorchScript program") as caught:
        load_checkpoint(tmp_path / "program.pt")
    run_advised(caught.value, tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match="its 2 tensors are bias, weight"):
        load_checkpoint(tmp_path / "weights.pth")


def test_settings_of_a_training_script_are_passed_over(tmp_path: Path) -> None:
    settings = argparse.Namespace(lr=0.1, out=Path("runs"), started=datetime.now(UTC))
    torch.save({"model": naoto_state(), "args": settings}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth").source.weights_key == "model"


class HistoryBuffer:
    """As MMEngine's: numbers in numpy's arrays, and functions found by name."""

    def __init__(self) -> None:
        self.history = np.arange(3.0)
        self.last = np.float64(0.5)
        self.method = self.mean

    def mean(self) -> float:
        return float(self.history.mean())


@pytest.fixture
def _mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)


@pytest.mark.usefixtures("_mmengine")
def test_mmengines_log_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_1.pth"
    log = {"log_scalars": {"loss": HistoryBuffer()}}
    content = {"meta": {"epoch": 1}, "state_dict": mmagic_state(), "message_hub": log}
    torch.save(content, path)
    monkeypatch.setattr(HistoryBuffer, "__init__", None)  # none is made
    loaded = load_checkpoint(path)
    assert loaded.source.family.name == "mmagic"
    assert loaded.source.training == {"epoch": 1}


class _Pickler(pickle.Pickler):
    """Writes tensors whose storages claim `numel` elements, whatever there is."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.args if isinstance(obj, _Claim) else None


class _Claim:
    def __init__(self, numel: int, *, old: bool) -> None:
        view: tuple[None, ...] = (None,) if old else ()
        self.args: tuple[Any, ...] = ("storage", torch.FloatStorage, "0", "cpu", numel, *view)


class _TensorOf:
    def __init__(self, claim: _Claim, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.args: tuple[Any, ...] = (claim, 0, shape, stride, False, collections.OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


def _pickled(content: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("numel", "shape", "stride"),
    [
        pytest.param(1 << 50, (1 << 50,), (1,), id="storage"),
        pytest.param(16, (1 << 50,), (1,), id="tensor beyond its storage"),
        pytest.param(16, (1 << 12,) * 4, (0, 0, 0, 0), id="tensor repeating its storage"),
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 2020"])
def test_claimed_memory_is_never_taken(
    tmp_path: Path, numel: int, shape: tuple[int, ...], stride: tuple[int, ...], old: bool
) -> None:
    path = tmp_path / "huge.pth"
    state: dict[str, object] = {
        name: _TensorOf(_Claim(numel, old=old), shape, stride)
        for name, tensor in naoto_state((4,), (3,)).items()
        if tensor.is_floating_point()
    }
    content = _pickled(state)
    if old:
        parts: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
        start = [pickle.dumps(part, 2) for part in parts]
        end = pickle.dumps(["0"], 2) + numel.to_bytes(8, "little") + bytes(64)
        path.write_bytes(b"".join(start) + content + end)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in {"data.pkl": content, "data/0": bytes(64), "version": b"3"}.items():
                archive.writestr(f"huge/{entry}", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"claims [\d,]{18,} bytes|needed dense"):
        load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("entries", "compression", "message"),
    [
        ({"a/data.pkl": b"x" * 1_000_000}, zipfile.ZIP_DEFLATED, "compressed, overlap"),
        ({"a/readme.txt": b"x"}, zipfile.ZIP_STORED, "zip archive, but not one of torch.save"),
        ({"a/data.pkl": b"", "a/constants.pkl": b""}, zipfile.ZIP_STORED, "TorchScript program"),
    ],
)
def test_archives_of_other_kinds(
    tmp_path: Path, entries: dict[str, bytes], compression: int, message: str
) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "hdf5"])
def test_truncated_and_garbled_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "short"
    if kind == "hdf5":
        write_keras(path, keras_layers())
    else:
        torch.save(naoto_state(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in (20, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="short"):
            load_checkpoint(path)
    for _ in range(20):
        garbled = np.frombuffer(content, np.uint8).copy()
        garbled[rng.integers(16, len(content), 400)] = rng.integers(0, 256, 400)
        path.write_bytes(garbled.tobytes())
        with contextlib.suppress(CheckpointError):  # weights alone may have changed
            load_checkpoint(path)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    (path := tmp_path / "large.pth").touch()
    os.truncate(path, (8 << 30) + 1)  # sparse
    with pytest.raises(CheckpointError, match="at most 8,589,934,592 are read"):
        load_checkpoint(path)


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    file.create_virtual_dataset("p_conv2d/p_conv2d/virtual:0", layout)


def _external_storage(file: Any) -> None:
    file.create_dataset("layer/raw:0", (2,), "f4", external=[("/etc/passwd", 0, 8)])


def _bomb(file: Any) -> None:
    file.create_dataset("layer/zeros:0", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def _cycles(file: Any, count: int) -> None:
    for number in range(count):
        file[f"p_conv2d/{number}"] = file["p_conv2d"]


def put(name: str, item: object) -> Callable[[Any], None]:
    return lambda file: file.__setitem__(name, item)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("p_conv2d/soft:0", h5py.SoftLink("/EncBN1")), r"soft:0 is a link; links are not"),
        (put("p_conv2d/x:0", h5py.ExternalLink("/etc/passwd", "/x")), r"x:0 is a link; links are"),
        (_virtual, r"virtual lies in another file"),
        (_external_storage, r"layer/raw lies in another file"),
        (_bomb, r"claim 4,398,\d+,\d+,\d+ bytes, the file has"),
        (put("p_conv2d/again/bias:0", np.zeros(5, np.float32)), r"holds p_conv2d/bias 2 times"),
        (put("layer/note:0", "text"), r"layer/note is object \(\); needed floating point"),
        (put("p_conv2d/\x1b[2J", np.zeros(5)), r"damaged: it holds 'p_conv2d/\\x1b\[2J'"),
        (lambda file: _cycles(file, 1), r"deeper than 6 groups"),
        (lambda file: _cycles(file, 100), r"has more than 20,000 groups|deeper than 6 groups"),
    ],
)
def test_hdf5_that_points_elsewhere_or_claims_too_much(
    keras_file: Path, change: Callable[[Any], None], message: str
) -> None:
    with h5py.File(keras_file, "a") as file:
        change(file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(keras_file)


def test_without_h5py_one_line_says_what_to_install(
    keras_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        MissingRuntimeError, match=r"needs h5py.*pip install 'pconv-deploy\[export\]'"
    ):
        load_checkpoint(keras_file)
