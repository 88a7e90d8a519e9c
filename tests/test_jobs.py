from pathlib import Path

import pytest

from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.jobs import plan_jobs, settle_existing


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def outputs(
    root: Path, images: str, masks: str, output: str, suffix: str | None = ".png"
) -> dict[str, str | None]:
    """Output to mask, both relative to root."""
    return {
        str(job.output.relative_to(root)): str(job.mask.relative_to(root)) if job.mask else None
        for job in plan_jobs(root / images, root / masks, root / output, suffix)
    }


def test_folders_by_stem_with_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/deep/b.png", "in/notes.txt", "in/.hidden.png")
    touch(tmp_path, "masks/a.png", "masks/deep/b.bmp", "masks/c.png")
    assert outputs(tmp_path, "in", "masks", "out") == {
        "out/a.png": "masks/a.png",
        "out/deep/b.png": "masks/deep/b.bmp",
    }


def test_one_mask_for_all(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "m.png")
    assert outputs(tmp_path, "in", "m.png", "out") == {"out/a.png": "m.png", "out/b.png": "m.png"}


def test_several_masks_of_one_image_give_several_outputs(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/a_mask001.png", "x/a_mask002.png", "x/b.png", "x/b_mask.png")
    found = outputs(tmp_path, "x/a.png", "x", "out")
    assert found == {
        "out/a_mask001.png": "x/a_mask001.png",
        "out/a_mask002.png": "x/a_mask002.png",
    }


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/a_mask001.png", "x/b.png", "x/b_mask.png")
    assert outputs(tmp_path, "x", "x", "out") == {
        "out/a.png": "x/a_mask001.png",
        "out/b.png": "x/b_mask.png",
    }


def test_masks_below_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/masks/a.png")
    assert outputs(tmp_path, "in", "in/masks", "out") == {"out/a.png": "in/masks/a.png"}


def test_names_that_hold_the_word_mask(tmp_path: Path) -> None:
    touch(tmp_path, "in/face_mask_01.jpg", "in/hair_mask.jpg")
    touch(tmp_path, "m/face_mask_01.png", "m/hair_mask.png", "m/hair_mask-2.png")
    assert outputs(tmp_path, "in", "m", "out") == {
        "out/face_mask_01.png": "m/face_mask_01.png",
        "out/hair_mask.png": "m/hair_mask.png",
    }


def test_one_folder_named_in_two_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/a.png", "x/a_mask.png")
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(Path("x"), tmp_path / "x", Path("out"))
    assert (job.image.name, job.mask and job.mask.name) == ("a.png", "a_mask.png")


def test_earlier_outputs_below_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "m.png", "in/filled/a.png")
    assert outputs(tmp_path, "in", "m.png", "in/filled") == {"in/filled/a.png": "m.png"}


def test_no_two_outputs_under_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/a.png", "in/A.webp", "in/b.jpg", "m.png")
    assert set(outputs(tmp_path, "in", "m.png", "out")) == {
        "out/a.jpg.png",
        "out/a.png.png",
        "out/A.webp.png",
        "out/b.png",
    }


def test_an_image_without_mask_is_planned_to_be_reported(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "masks/b.png")
    assert outputs(tmp_path, "in", "masks", "out") == {
        "out/a.png": None,
        "out/b.png": "masks/b.png",
    }


def test_single_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "m.png", "masks/a.png")
    assert outputs(tmp_path, "a.jpg", "m.png", "result.webp") == {"result.webp": "m.png"}
    assert outputs(tmp_path, "a.jpg", "masks", "out") == {"out/a.png": "masks/a.png"}
    assert outputs(tmp_path, "a.jpg", "masks", "out", None) == {"out/a.jpg": "masks/a.png"}


def test_an_output_must_not_be_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "m.png")
    with pytest.raises(UsageError, match=r"in/a\.png is an input"):
        plan_jobs(tmp_path / "in", tmp_path / "m.png", tmp_path / "in")
    with pytest.raises(UsageError, match="is an input"):
        plan_jobs(tmp_path / "in/a.png", tmp_path / "m.png", tmp_path / "m.png")


def test_formats_we_do_not_write(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.gif", "m.png")
    with pytest.raises(UsageError, match=r"cannot write .*a\.gif: needed one of"):
        plan_jobs(tmp_path / "in", tmp_path / "m.png", tmp_path / "out", None)


def test_nothing_there(tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.txt", "m.png", "a.png")
    missing = tmp_path / "none"
    with pytest.raises(InputError, match="none does not exist"):
        plan_jobs(missing, tmp_path / "m.png", tmp_path / "out")
    with pytest.raises(InputError, match="none does not exist"):
        plan_jobs(tmp_path / "a.png", missing, tmp_path / "out")
    with pytest.raises(InputError, match="holds no images"):
        plan_jobs(tmp_path / "empty", tmp_path / "m.png", tmp_path / "out")


def test_a_folder_into_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "m.png", "out.png")
    with pytest.raises(UsageError, match="is a folder, so"):
        plan_jobs(tmp_path / "in", tmp_path / "m.png", tmp_path / "out.png")


def test_existing_outputs(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.png", "m.png", "out/b.png")
    jobs = plan_jobs(tmp_path / "in", tmp_path / "m.png", tmp_path / "out")
    with pytest.raises(UsageError, match=r"1 of 2 outputs exist already \(.*b\.png\).*--resume"):
        settle_existing(jobs, resume=False, overwrite=False)
    assert settle_existing(jobs, resume=True, overwrite=False) == [False, True]
    assert settle_existing(jobs, resume=False, overwrite=True) == [False, False]
