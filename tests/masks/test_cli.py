import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.masks.drawing import drawn_hole
from tests.cli.conftest import Run
from tests.masks.conftest import write_film, write_frames

MAKE = ("--size", "64", "-n", "1", "--workers", "1")


def write_masks(folder: Path, kind: str) -> Path:
    """Three masks, or none, of a kind that is wrong in one way."""
    folder.mkdir()
    for number in range(0 if kind == "no pictures" else 3):
        hole = drawn_hole(np.random.default_rng(number), 64, 64, (0.1, 0.2))
        if kind == "inverted":
            hole = ~hole
        elif kind == "tiny":
            hole[:] = False
            hole[5, 5] = True
        path = folder / f"{number}.png"
        Image.fromarray(hole.astype(np.uint8) * 255).save(path)
        if kind == "corrupt" or (kind == "some corrupt" and number == 1):
            path.write_bytes(path.read_bytes()[:20])
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no pictures", "holds no pictures"),
        ("corrupt", "none of the 3 masks in"),
        ("inverted", "look inverted"),
        ("tiny", "covers more than 1% and at most 60%"),
    ],
)
def test_check_exits_3_where_no_mask_can_be_used(
    run: Run, tmp_path: Path, kind: str, message: str
) -> None:
    result = run("masks", "check", write_masks(tmp_path / "masks", kind))
    assert result.code == 3
    assert message in result.err
    assert result.err.count("\n") == 1


def test_check_names_broken_masks_and_counts_the_others(run: Run, tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "masks", "some corrupt")
    for number in range(3, 11):
        (folder / f"{number}.png").write_bytes(b"")
    result = run("masks", "check", folder)
    assert result.code == 0
    assert result.err == ""
    assert "2 of 11 files" in result.out
    assert "and 4 more" in result.out
    assert f"unreadable  {folder / '1.png'}" in result.out
    assert "64x64 (2)" in result.out
    facts = json.loads(run("masks", "check", folder, "--json").out)
    assert facts["pictures"] == 11
    assert facts["classes"][1]["area"] == [0.1, 0.2]


def test_make_and_check_agree(run: Run, tmp_path: Path) -> None:
    made = run("masks", "make", tmp_path / "set", *MAKE)
    assert made.code == 0
    assert made.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.png"]
    assert "12 hole masks" in made.out
    plot = tmp_path / "plots" / "a.png"
    options = ("--size", "64", "--per-class", "1", "--workers", "1", "--plot", plot)
    assert run("masks", "make", "-o", tmp_path / "other", *options).code == 0
    assert plot.is_file()
    facts = json.loads(run("masks", "check", tmp_path / "set", "--json").out)
    assert facts["pictures"] == 12
    assert {(c["border"], c["no_border"]) for c in facts["classes"]} == {(1, 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "8"), "needed sides of 32 to 4096"),
        (("--size", "big"), "needed 512 or 512x768"),
        (("-n", "4001"), "needed 1 to 4000"),
        (("--plot", "set/plot.png"), "is in the set itself"),
        (("--plot", "plot.svg"), "ends in .png"),
        (("--plot", "old.png"), "already exists; pass --overwrite"),
        (("--frame-step", "2"), "--flow and --frame-step go with --video"),
        (("--flow", "magic"), "dis"),
    ],
)
def test_wrong_options_exit_2(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.png").write_bytes(b"")
    result = run("masks", "make", "set", *arguments)
    assert result.code == 2
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]


def test_what_exists_is_kept(run: Run, tmp_path: Path) -> None:
    command = ("masks", "make", tmp_path / "set", *MAKE, "--no-plot")
    assert run(*command).code == 0
    assert not (tmp_path / "set.png").exists()
    again = run(*command)
    assert again.code == 2
    assert "pass --overwrite" in again.err
    assert run(*command, "--overwrite").code == 0
    foreign = run("masks", "make", tmp_path, *MAKE, "--no-plot", "--overwrite")
    assert foreign.code == 2
    assert "not ours to replace" in foreign.err


def test_an_unwritable_place_exits_7(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("masks", "make", tmp_path / "file" / "set", *MAKE)
    assert result.code == 7
    assert "cannot write" in result.err
    assert "is no folder" in run("masks", "check", tmp_path / "file").err


def write_video(path: Path, kind: str) -> Path:
    if kind == "no video":
        path.write_bytes(b"no video" * 99)
    elif kind == "truncated":
        write_film(path, code="mp4v")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "a picture":
        Image.new("RGB", (64, 64)).save(path, "PNG")
    elif kind in ("one frame", "still"):
        write_film(
            path, count=8 if kind == "still" else 1, step=0 if kind == "still" else 6, code="mp4v"
        )
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "one picture":
        write_frames(path, 1)
    elif kind == "broken frame":
        write_frames(path, 2)
        (path / "frame1.png").write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("a picture", "film.mp4"),
        ("no video", "is no video that can be read"),
        ("truncated", "is no video that can be read"),
        ("one frame", "has 1 frame; needed at least 2"),
        ("still", "no motion found in"),
        ("empty folder", "holds no pictures"),
        ("one picture", "has 1 frame; needed at least 2"),
        ("broken frame", "frame1.png is empty"),
    ],
)
def test_bad_videos_exit_3(run: Run, tmp_path: Path, kind: str, message: str) -> None:
    video = write_video(tmp_path / "film.mp4", kind)
    result = run("masks", "make", tmp_path / "set", *MAKE, "--video", video)
    assert result.code == 3
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_from_a_video(run: Run, film: Path, tmp_path: Path) -> None:
    output = tmp_path / "set"
    result = run("masks", "make", output, *MAKE, "--video", film, "--flow", "farneback")
    assert result.code == 0
    assert result.err == ""
    assert json.loads((output / "holes.json").read_text())["source"]["flow"] == "farneback"
