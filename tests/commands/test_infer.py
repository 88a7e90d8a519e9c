import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.commands import infer as batch_module
from pconv_deploy.commands.infer import FileResult, FillOptions, fill_jobs
from pconv_deploy.commands.jobs import Job, plan_jobs
from pconv_deploy.errors import EngineError, OutputError
from pconv_deploy.images.writing import Encoding, save_image
from pconv_deploy.inpainter import Inpainter

Photo = Callable[..., NDArray[np.uint8]]
SIZES = {"a": (40, 56), "b": (16, 16), "c": (40, 56), "d": (33, 47), "e": (20, 90)}


@pytest.fixture
def folders(tmp_path: Path, photo: Photo, box: Photo) -> Path:
    for name, size in SIZES.items():
        for folder, pixels in (("in", photo(*size)), ("masks", box(*size))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def run(inpainter: Inpainter, root: Path, **options: Any) -> list[FileResult]:
    jobs = plan_jobs(root / "in", root / "masks", root / "out")
    return list(fill_jobs(inpainter, jobs, FillOptions(**options)))


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("batch", [1, 2])
def test_fills_every_file_as_a_single_call_does(
    inpainter: Inpainter, folders: Path, photo: Photo, box: Photo, batch: int
) -> None:
    outcomes = run(inpainter, folders, batch=batch)
    assert [o.job.image.stem for o in outcomes] == list(SIZES)
    assert all(o.error is None for o in outcomes)
    for name, size in SIZES.items():
        filled, hole = pixels(folders / "out" / f"{name}.png"), box(*size) != 0
        expected = inpainter(photo(*size), box(*size))
        assert np.abs(filled.astype(int) - expected).max() <= 1
        assert (filled[~hole] == photo(*size)[~hole]).all()
    assert sorted(p.name for p in (folders / "out").iterdir()) == [f"{n}.png" for n in SIZES]


def test_several_batches_at_once_give_the_same_files(
    engine: Path, folders: Path, inpainter: Inpainter
) -> None:
    jobs = plan_jobs(folders / "in", folders / "masks", folders / "one by one")
    assert all(o.error is None for o in fill_jobs(inpainter, jobs, FillOptions(batch=1)))
    many = [Job(j.image, j.mask, folders / "at once" / j.output.name) for j in jobs]
    with Inpainter.load(engine, threads=1, streams=2) as loaded:
        outcomes = list(fill_jobs(loaded, many, FillOptions(batch=1, at_once=2)))
    assert [o.job for o in outcomes] == many
    for one, other in zip(jobs, many, strict=True):
        assert one.output.read_bytes() == other.output.read_bytes()


def test_the_engine_goes_on_while_files_are_written(
    inpainter: Inpainter, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, second = [], threading.Event()
    fill = inpainter.fill

    def counted(prepared: Any) -> Any:
        calls.append(prepared)
        if len(calls) == 2:
            second.set()
        return fill(prepared)

    def save_late(*arguments: Any) -> None:
        assert second.wait(20)  # never, if the engine waited for the first file
        save_image(*arguments)

    monkeypatch.setattr(inpainter, "fill", counted)
    monkeypatch.setattr(batch_module, "save_image", save_late)
    assert all(o.error is None for o in run(inpainter, folders))


def test_bad_files_are_reported_and_passed_over(inpainter: Inpainter, folders: Path) -> None:
    (folders / "in" / "b.png").write_bytes(b"no image")
    (folders / "masks" / "c.png").unlink()
    Image.new("L", (5, 5), 255).save(folders / "masks" / "d.png")
    Image.new("L", (90, 20), 255).save(folders / "masks" / "e.png")
    outcomes = {o.job.image.stem: o for o in run(inpainter, folders, batch=2)}
    errors = {name: str(o.error) for name, o in outcomes.items()}
    assert errors["a"] == "None"
    assert "b.png is no image that can be read" in errors["b"]
    assert "c.png has no mask of the same name" in errors["c"]
    assert "d.png is 5x5" in errors["d"]
    assert "--fit-masks" in errors["d"]
    assert "e.png: the hole mask covers the whole image" in errors["e"]
    assert "--mask-convention" in errors["e"]
    assert [p.name for p in (folders / "out").iterdir()] == ["a.png"]


def test_a_mask_without_hole_copies_the_image_and_says_so(
    inpainter: Inpainter, folders: Path, photo: Photo
) -> None:
    Image.new("L", (56, 40), 0).save(folders / "masks" / "a.png")
    first = run(inpainter, folders)[0]
    assert first.error is None
    assert not first.had_hole
    assert (pixels(folders / "out" / "a.png") == photo()).all()


def test_masks_can_be_fitted_and_dilated(inpainter: Inpainter, folders: Path, photo: Photo) -> None:
    small = np.zeros((20, 28), np.uint8)
    small[5:10, 7:14] = 255
    Image.fromarray(small).save(folders / "masks" / "a.png")
    first = run(inpainter, folders, fit_masks=True, dilate=3)[0]
    assert first.error is None
    changed = (pixels(folders / "out" / "a.png") != photo()).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max()) == (10 - 3, 19 + 3)
    assert (columns.min(), columns.max()) == (14 - 3, 27 + 3)


def test_one_image_too_large_for_memory_does_not_take_others_along(
    inpainter: Inpainter, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(prepared: Any) -> Any:
        if any(item.padded_size == (32, 96) for item in prepared):
            raise EngineError("ONNX Runtime failed: out of memory")
        return genuine(prepared)

    genuine = inpainter._runs.run
    monkeypatch.setattr(inpainter._runs, "run", scarce)
    outcomes = {o.job.image.stem: o.error for o in run(inpainter, folders, batch=5)}
    assert "in/e.png: ONNX Runtime failed: out of memory" in str(outcomes.pop("e"))
    assert set(outcomes.values()) == {None}


def test_a_full_disk_stops_the_batch_and_keeps_what_is_done(
    inpainter: Inpainter, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_full(path: Path, image: Any, encoding: Encoding) -> None:
        if path.stem == "c":
            raise OutputError(f"cannot write {path}: No space left on device")
        save_image(path, image, encoding)

    monkeypatch.setattr(batch_module, "save_image", until_full)
    outcomes: list[FileResult] = []
    jobs = plan_jobs(folders / "in", folders / "masks", folders / "out")
    with pytest.raises(OutputError, match="No space left"):
        outcomes.extend(fill_jobs(inpainter, jobs))
    there = {path.name for path in (folders / "out").iterdir()}
    # What was being written then is there, too.
    assert {"a.png", "b.png"} <= there <= {"a.png", "b.png", "d.png", "e.png"}


def test_stopping_early_leaves_whole_files_and_no_threads(
    inpainter: Inpainter, folders: Path
) -> None:
    jobs = plan_jobs(folders / "in", folders / "masks", folders / "out")
    running = fill_jobs(inpainter, jobs)
    next(running)
    running.close()
    names = sorted(p.name for p in (folders / "out").iterdir())
    assert names[0] == "a.png"
    assert not any("partial" in name for name in names)
    assert not [t for t in threading.enumerate() if t.name.startswith("pconv-files")]


def test_the_limit_counts_padding(inpainter: Inpainter, tmp_path: Path, photo: Photo) -> None:
    Image.fromarray(photo(1, 500)).save(tmp_path / "a.png")
    mask = np.zeros((1, 500), np.uint8)
    mask[0, :9] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    jobs = plan_jobs(tmp_path / "a.png", tmp_path / "m.png", tmp_path / "out")
    (outcome,) = fill_jobs(inpainter, jobs, FillOptions(max_pixels=600))
    assert "is 500x1 and padded for the network 512x16" in str(outcome.error)


def test_pictures_after_the_photo_are_said_to_be_left_out(
    inpainter: Inpainter, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    preview = Image.fromarray(photo(8, 8))
    Image.fromarray(photo()).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    Image.fromarray(box()).save(tmp_path / "m.png")
    jobs = plan_jobs(tmp_path / "a.jpg", tmp_path / "m.png", tmp_path / "out")
    (outcome,) = fill_jobs(inpainter, jobs)
    assert outcome.error is None
    assert "1 more in its file" in "".join(note.text for note in outcome.notes)


def test_nothing_to_do(inpainter: Inpainter) -> None:
    assert list(fill_jobs(inpainter, [])) == []
