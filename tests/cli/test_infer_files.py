"""Which files `infer` fills, what it says of the others, and its exit codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.commands.jobs import Job, in_shard
from pconv_deploy.inpainter import Inpainter
from tests.cli.conftest import Run

Photo = Callable[..., NDArray[np.uint8]]


def done(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_that_are_not_read_fail_the_batch(
    run: Run, engine: Path, files: Path, photo: Photo
) -> None:
    Image.fromarray(photo()).save(files / "in/d.jfif", "JPEG")
    (files / "in/e.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (files / "in/gone.png").symlink_to("nowhere.png")
    arguments = ("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    result = run(*arguments)
    assert result.code == 8
    assert "failed: " in result.err
    assert "in/e.HEIC is a picture of a kind that is not read (.heic): convert it" in result.err
    assert "in/gone.png is a broken link" in result.err
    assert "2 of 6 failed" in result.err
    assert done(files / "out") == ["a.png", "b.png", "c.png", "d.png"]
    again = run(*arguments, "--resume", "--exclude", "*.HEIC", "--exclude", "gone.*")
    assert again.code == 0
    assert "4 kept from before" in again.out


def test_parts_of_a_photo_are_noted(run: Run, engine: Path, files: Path, photo: Photo) -> None:
    large, hole_mask = photo(400, 600), np.zeros((400, 600), np.uint8)
    hole_mask[10:40, 20:50] = 255
    for name, array in (("large.png", large), ("hole.png", hole_mask)):
        Image.fromarray(array).save(files / name)
    task = ("infer", engine, files / "large.png", files / "hole.png", "-o", files / "x.png")
    result = run(*task, "--region", "crop", "--context", 16)
    assert result.code == 0
    assert "the network saw 128x128 of 600x400 pixels, not the whole photo" in result.err
    filled = np.asarray(Image.open(files / "x.png"))
    np.testing.assert_array_equal(filled[hole_mask == 0], large[hole_mask == 0])


def test_shards_fill_what_one_run_fills(run: Run, engine: Path, files: Path) -> None:
    task = ("infer", engine, files / "in", files / "mask.png")
    assert run(*task, "-o", files / "whole").code == 0
    for shard in ("0/3", "1/3", "2/3"):  # into one folder, in any order, twice
        for resume in ((), ("--resume",)):
            part = run(*task, "-o", files / "parts", "--shard", shard, *resume)
            assert part.code == 0, part.err
    assert done(files / "parts") == done(files / "whole") == ["a.png", "b.png", "c.png"]
    for name in done(files / "whole"):
        assert (files / "parts" / name).read_bytes() == (files / "whole" / name).read_bytes()
    assert run(*task, "-o", files / "x", "--shard", "0/1").code == 0
    refused = run(*task, "-o", files / "x", "--shard", "3/3")
    assert (refused.code, "I from 0 to N-1" in refused.err) == (2, True)


def test_shards_are_disjoint_and_even_wherever_the_folder_lies() -> None:
    for root in (Path("/here"), Path("there/out")):
        jobs = [Job(Path(f"{i}.jpg"), None, root / f"a/{i}.png") for i in range(1000)]
        parts = [[job.image for job in jobs if in_shard(job, root, i, 8)] for i in range(8)]
        assert sum(map(len, parts)) == len({image for part in parts for image in part}) == 1000
        assert all(90 < len(part) < 160 for part in parts)
        if root == Path("/here"):
            before = parts
        assert parts == before


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (64, 3)])
def test_a_folder_runs_on_all_cores(
    run: Run, engine: Path, files: Path, monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(cores)))
    opened: list[dict[str, Any]] = []
    load = Inpainter.load

    def loaded(name: Path, **options: Any) -> Inpainter:
        opened.append(options)
        return load(name, **{**options, "threads": 1})

    monkeypatch.setattr(Inpainter, "load", loaded)
    shown = run("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert shown.code == 0
    photos = len(done(files / "out"))
    assert photos == 3
    assert opened[0]["streams"] == expected
    assert opened[0]["threads"] == (max(1, cores // expected) if expected > 1 else None)
