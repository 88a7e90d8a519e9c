"""Weights are found wherever a file has them; several sets are a question."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pconv_deploy.checkpoints.native import convert_checkpoint, load_checkpoint, read_header
from pconv_deploy.errors import CheckpointError
from tests.checkpoints.foreign.projects import mmagic_state, naoto_state
from tests.checkpoints.foreign.test_projects import same_weights
from tests.checkpoints.foreign.wrappings import ALONE, SEVERAL, UNREAD_AVERAGES, averaged


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.save(naoto_state((4,), (3,)), tmp_path / "plain.pth")
    return tmp_path / "plain.pth"


@pytest.mark.parametrize("way", ALONE)
def test_one_set_of_weights_is_found(tmp_path: Path, plain: Path, way: str) -> None:
    key, wrap = ALONE[way]
    path = tmp_path / "wrapped.pth"
    torch.save(wrap(naoto_state((4,), (3,))), path)
    assert same_weights(plain, path)
    assert load_checkpoint(path).source.weights_key == key
    if key is not None:
        assert load_checkpoint(path, weights_key=key).source.weights_key == key


@pytest.mark.parametrize("way", SEVERAL)
def test_several_sets_are_a_question(tmp_path: Path, plain: Path, way: str) -> None:
    keys, wrap = SEVERAL[way]
    path, average = tmp_path / "wrapped.pth", tmp_path / "average.pth"
    torch.save(wrap(naoto_state((4,), (3,))), path)
    torch.save(averaged(naoto_state((4,), (3,))), average)
    with pytest.raises(CheckpointError, match="holds 2 sets of weights that fit: ") as caught:
        load_checkpoint(path)
    for key, other in zip(keys, (plain, average), strict=True):
        assert key in str(caught.value)
        ours = tmp_path / "ours.safetensors"
        convert_checkpoint(path, ours, weights_key=key, overwrite=True)
        assert same_weights(other, ours)


@pytest.mark.parametrize("way", UNREAD_AVERAGES)
def test_averages_that_cannot_be_read_are_a_question(tmp_path: Path, plain: Path, way: str) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save(UNREAD_AVERAGES[way](naoto_state((4,), (3,))), path)
    with pytest.raises(CheckpointError, match=r"averaged weights beside .*--weights-key model"):
        load_checkpoint(path)
    ours = tmp_path / "ours.safetensors"
    convert_checkpoint(path, ours, weights_key="model")
    assert same_weights(plain, ours)


def test_a_generator_of_mmagic_stored_alone_and_its_average(tmp_path: Path) -> None:
    state = mmagic_state((4,), (3,))
    generator = {n.removeprefix("generator."): t for n, t in state.items() if "generator" in n}
    whole, alone, both = (tmp_path / f"{name}.pth" for name in ("whole", "alone", "both"))
    torch.save({"state_dict": state}, whole)
    torch.save(generator, alone)
    assert same_weights(whole, alone)
    ema = {f"generator_ema.{name}": t for name, t in averaged(generator).items()}
    torch.save({"state_dict": state | ema}, both)
    with pytest.raises(CheckpointError, match=r"state_dict\.generator, state_dict\.generator_ema"):
        load_checkpoint(both)
    assert read_header(both, weights_key="state_dict.generator_ema").source.family.name == "mmagic"


def test_weights_of_another_project_as_safetensors(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "hub.safetensors"
    state = {f"model.{name}": t.contiguous() for name, t in naoto_state((4,), (3,)).items()}
    save_file(state, path, {"format": "pt"})
    assert same_weights(plain, path)


@pytest.mark.parametrize("key", ["nothing", "", "mod", "model."])
def test_a_key_that_is_not_there(tmp_path: Path, key: str) -> None:
    state = naoto_state((4,), (3,))
    torch.save({"model": state, "ema": averaged(state)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no weights under the key '.*'; it has: ema, model"):
        load_checkpoint(tmp_path / "a.pth", weights_key=key)


def test_a_key_of_something_else(tmp_path: Path) -> None:
    torch.save({"model": naoto_state((4,), (3,)), "vgg": {"w": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"its only tensor is w\."):
        load_checkpoint(tmp_path / "a.pth", weights_key="vgg")


def nested(depth: int, key: str) -> dict[str, object]:
    content: dict[str, object] = {"w": torch.ones(1)}
    for _ in range(depth):
        content = {key: content}
    return content


def circle() -> dict[str, object]:
    content: dict[str, object] = {"w": torch.ones(1)}
    content["again"] = [content, (content,)]
    return content


def many_ways_to_one_dictionary() -> dict[str, object]:
    content: dict[str, object] = {"w": torch.ones(1)}
    for _ in range(60):
        content = {"a": content, "b": content, "c": [content, content]}
    return content


@pytest.mark.parametrize(
    "make",
    [
        circle,
        many_ways_to_one_dictionary,
        lambda: nested(400, "x"),
        lambda: nested(20, "x" * 400),
        lambda: {".".join("x" * 240) + str(i): torch.ones(1) for i in range(500)},
        lambda: {f"w{i}": torch.ones(1) for i in range(600)},
        lambda: {"": torch.ones(1), ".": torch.ones(1), "..a": {"": {"b.": torch.ones(1)}}},
    ],
)
def test_files_made_to_be_walked_through_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]
) -> None:
    monkeypatch.setattr("pconv_deploy.checkpoints.foreign.tensor_tree._MOST_TENSORS", 550)
    torch.save(make(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert len(str(caught.value)) < 2000
