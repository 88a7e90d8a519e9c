from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import InputError
from pconv_deploy.masks.frames import frame_pairs, read_pair
from pconv_deploy.masks.mask_set import CLASSES, MaskSetOptions, make_mask_set
from pconv_deploy.masks.reading import read_mask_set
from pconv_deploy.masks.video import VideoSource
from tests.masks.conftest import HEIGHT, WIDTH, contents, frames, write_film, write_frames


def options(*videos: Path, frame_step: int = 1) -> MaskSetOptions:
    source = VideoSource(videos=videos, frame_step=frame_step)
    return MaskSetOptions(height=64, width=80, per_class=1, seed=3, video=source)


@pytest.mark.parametrize(
    ("count", "most", "step", "starts"),
    [(8, 99, 1, [0, 2, 4, 6]), (9, 3, 1, [0, 4, 7]), (8, 99, 2, [0, 5]), (2, 99, 1, [0])],
)
def test_pairs_are_spread_evenly(
    tmp_path: Path, count: int, most: int, step: int, starts: list[int]
) -> None:
    folder = write_frames(tmp_path / "frames", count)
    assert [pair.at for pair in frame_pairs(folder, most, step)] == starts


@pytest.mark.parametrize(("suffix", "code"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_the_frames_of_a_video_are_those_written(tmp_path: Path, suffix: str, code: str) -> None:
    film = write_film(tmp_path / f"film{suffix}", code=code)
    written = frames(8, 6)
    for pair in frame_pairs(film, 99):
        read = read_pair(pair, 512)
        assert read is not None
        for frame, number in zip(read, (pair.at, pair.at + 1), strict=True):
            # The neighbours are 20 levels away where the square moves, compression few.
            errors = [np.abs(frame.astype(int) - other).mean() for other in written]
            assert int(np.argmin(errors)) == number


def test_frames_are_reduced_but_never_enlarged(tmp_path: Path) -> None:
    (pair, *_) = frame_pairs(write_frames(tmp_path / "frames"), 1)
    for side, shape in ((48, (48, 64)), (4 * HEIGHT, (HEIGHT, WIDTH))):
        read = read_pair(pair, side)
        assert read is not None
        assert {frame.shape for frame in read} == {shape}


def test_every_class_from_a_video_however_many_workers(film: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = make_mask_set(tmp_path / "one", options(film), progress=lambda *d: seen.append(d))
    make_mask_set(tmp_path / "two", options(film), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert seen[-1] == (4 + 12, 4 + 12)
    assert made.source["kind"] == "occlusions"
    (tmp_path / "one" / "holes.json").unlink()
    found = read_mask_set(tmp_path / "one")
    assert [(m.bucket, m.border) for m in found] == list(CLASSES)


def test_several_sources_and_other_steps(film: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames")
    both = make_mask_set(tmp_path / "set", options(film, folder, frame_step=2))
    assert both.source["videos"] == ["film.avi", "frames"]
    assert both.source["frame_pairs"] == 4


def test_a_class_that_no_motion_gives_is_named(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pconv_deploy.masks.mask_set.fitted_hole", lambda *_, **__: None)
    with pytest.raises(InputError, match="no holes of 1% to 10% near the border"):
        make_mask_set(tmp_path / "set", options(film))
    assert not (tmp_path / "set").exists()


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 2)
    first = next(folder.iterdir())
    Image.new("L", (40, 40)).save(first)
    with pytest.raises(InputError, match="40"):
        make_mask_set(tmp_path / "set", options(folder))
