import os
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pconv_deploy.commands.jobs import plan_jobs, settle_existing
from pconv_deploy.errors import InputError, UsageError


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


# Files there are; images, masks and output as they are named; mask by output, in the planned order.
PLANS = {
    "by stem, with subfolders": (
        "in/a.jpg in/deep/b.png in/notes.txt in/.x.png masks/a.png masks/deep/b.bmp masks/c.png",
        "in masks out",
        {"out/a.png": "masks/a.png", "out/deep/b.png": "masks/deep/b.bmp"},
    ),
    "one mask for all": (
        "in/a.jpg in/b.jpg in/m.png",
        "in in/m.png out",
        {"out/a.png": "in/m.png", "out/b.png": "in/m.png"},
    ),
    "several masks of one image": (
        "x/a.png x/a_mask001.png x/a_mask002.png x/b.png x/b_mask.png",
        "x/a.png x out",
        {"out/a_mask001.png": "x/a_mask001.png", "out/a_mask002.png": "x/a_mask002.png"},
    ),
    "images and masks in one folder": (
        "x/a.png x/a_mask001.png x/b.png x/b_mask.png",
        "x x/../x out",
        {"out/a.png": "x/a_mask001.png", "out/b.png": "x/b_mask.png"},
    ),
    "masks below the images are no images": (
        "in/a.png in/masks/a.png",
        "in in/masks out",
        {"out/a.png": "in/masks/a.png"},
    ),
    "earlier outputs below the images are no images": (
        "in/a.png m.png in/filled/a.png",
        "in m.png in/filled",
        {"in/filled/a.png": "m.png"},
    ),
    "names that hold the word mask": (
        "in/face_mask_01.jpg in/hair_mask.jpg m/face_mask_01.png m/hair_mask.png m/hair_mask-2.png",
        "in m out",
        {"out/face_mask_01.png": "m/face_mask_01.png", "out/hair_mask.png": "m/hair_mask.png"},
    ),
    "no two outputs under one name": (
        "in/a.jpg in/a.png in/A.webp in/b.jpg m.png",
        "in m.png out",
        dict.fromkeys(("out/A.webp.png", "out/a.jpg.png", "out/a.png.png", "out/b.png"), "m.png"),
    ),
    "an image without a mask": (
        "in/a.jpg in/b.jpg masks/b.png",
        "in masks out",
        {"out/a.png": None, "out/b.png": "masks/b.png"},
    ),
    "masks named after the whole name": (
        "p/a.jpg p/a.png p/deep/b.jpg m/a.jpg.png m/a.png.png m/deep/b.JPG.png",
        "p m out",
        {
            "out/a.jpg.png": "m/a.jpg.png",
            "out/a.png.png": "m/a.png.png",
            "out/deep/b.png": "m/deep/b.JPG.png",
        },
    ),
    "a mask called exactly as another photo is that one's": (
        "p/a.jpg p/A.png p/woman.jpg p/woman_mask.jpg m/a.png m/A.png m/woman.png m/woman_mask.png",
        "p m out",
        {
            "out/A.png.png": "m/A.png",
            "out/a.jpg.png": "m/a.png",
            "out/woman.png": "m/woman.png",
            "out/woman_mask.png": "m/woman_mask.png",
        },
    ),
    "one image into a file": ("a.jpg m.png", "a.jpg m.png r.webp", {"r.webp": "m.png"}),
    "one image into a folder": ("a.jpg m/a.png", "a.jpg m out", {"out/a.png": "m/a.png"}),
}


@pytest.mark.parametrize("name", PLANS)
def test_plans(tmp_path: Path, name: str) -> None:
    there, places, planned = PLANS[name]
    touch(tmp_path, *there.split())
    found = outputs(tmp_path, *places.split())
    assert {o: m and os.path.normpath(m) for o, m in found.items()} == planned


def test_the_images_own_format(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "masks/a.png")
    assert outputs(tmp_path, "a.jpg", "masks", "out", None) == {"out/a.jpg": "masks/a.png"}


@pytest.mark.parametrize(
    ("there", "places", "message"),
    [
        ("in/a.png m.png", "in m.png in", r"in/a\.png is an input"),
        ("in/a.png m.png", "in/a.png m.png m.png", "is an input"),
        ("in/a.gif m.png", "in m.png out", r"cannot write .*a\.gif: needed one of"),
        ("in/a.png m.png out.png", "in m.png out.png", "is a folder, so"),
        ("m.png", "none m.png out", "none does not exist"),
        ("a.png", "a.png none out", "none does not exist"),
        ("empty/notes.txt m.png", "empty m.png out", "holds no pictures"),
        ("p/a.jpg p/A.jpg m.png", "p m.png out", r"2 images would be .* .*p/A\.jpg, .*p/a\.jpg"),
        ("p/a.jpg p/p/b.jpg m.png", "p m.png p", "would lie among the photos and be taken for"),
        ("x/p/a.jpg x/p/p/b.jpg m.png", "x/p m.png x", "would lie among the photos and be taken"),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, there: str, places: str, message: str) -> None:
    touch(tmp_path, *there.split())
    kind = InputError if message.endswith(("exist", "pictures")) else UsageError
    images, masks, output = places.split()
    with pytest.raises(kind, match=message):
        outputs(tmp_path, images, masks, output, None if images == "in" else ".png")


def problems(root: Path, images: str = "p", masks: str = "m", **options: Any) -> dict[str, str]:
    """Image to what is wrong with it, the image relative to root."""
    jobs = plan_jobs(root / images, root / masks, root / "out", **options)
    assert all(job.mask is None for job in jobs if job.problem)
    return {str(job.image.relative_to(root)): job.problem for job in jobs if job.problem}


def test_existing_outputs(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.png", "m.png", "out/b.png")
    jobs = plan_jobs(tmp_path / "in", tmp_path / "m.png", tmp_path / "out")
    with pytest.raises(UsageError, match=r"1 of 2 outputs exist already \(.*b\.png\).*--resume"):
        settle_existing(jobs, resume=False, overwrite=False)
    assert settle_existing(jobs, resume=True, overwrite=False) == [False, True]
    assert settle_existing(jobs, resume=False, overwrite=True) == [False, False]


@pytest.mark.parametrize("name", ["b[1]", "don't", "new\nline"])
def test_the_advised_exclusion_can_be_typed(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"p/{name}.jpg", f"m/{name}.png", f"m/{name}_mask.png")
    (said,) = problems(tmp_path).values()
    advised = said.partition("--exclude ")[2].partition(", or fill")[0]
    assert problems(tmp_path, exclude=shlex.split(advised)) == {}


def test_names_in_other_unicode_forms_are_the_same(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "p\u00e9t\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart
    touch(tmp_path, f"p/{composed}/{composed}.jpg", f"m/{apart}/{apart}.png")
    assert outputs(tmp_path, "p", "m", "out") == {
        f"out/{composed}/{composed}.png": f"m/{apart}/{apart}.png"
    }
    touch(tmp_path, f"m/{apart}/{composed}.png")
    (said,) = problems(tmp_path).values()
    assert "found 2 masks" in said


def test_names_in_other_letters_are_the_same_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "p/IMG_1.JPG", "p/b.jpg", "m/img_1.png", "m/b.png")
    found = outputs(tmp_path, "p", "m", "out")
    assert found == {"out/IMG_1.png": "m/img_1.png", "out/b.png": "m/b.png"}
    assert "m/img_1.png is taken for" in caplog.text
    assert "m/b.png" not in caplog.text
    caplog.clear()
    assert outputs(tmp_path, "p/IMG_1.JPG", "m", "out") == {"out/IMG_1.png": "m/img_1.png"}
    assert "m/img_1.png is taken for" in caplog.text


def test_a_missing_mask_says_what_was_found_instead(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "p/c.jpg", "m/deep/a.png", "m/b.psd", "m/d.png")
    said = problems(tmp_path)
    assert "p/a.jpg has no mask of the same name" in said["p/a.jpg"]
    assert "m/deep/a.png); needed" in said["p/a.jpg"]
    assert "m/b.psd is a picture of a kind that is not read" in said["p/b.jpg"]
    assert said["p/c.jpg"].endswith("has no mask of the same name in " + str(tmp_path / "m"))
    assert "it is called a_mask.png" in problems(tmp_path, "p", "p")["p/a.jpg"]


def test_masks_without_a_photo_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path, "p/a.jpg", "p/e.heic", "m/a.png", "m/b.png", "m/c.png", "m/deep/a.png", "m/e.png"
    )
    outputs(tmp_path, "p", "m", "out")
    assert "no photo for 3 masks" in caplog.text
    assert "m/e.png" not in caplog.text


def test_pictures_that_are_not_read_are_jobs_with_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.jpg", "p/a.heic", "p/deep/b.dng", "m.png")
    jobs = plan_jobs(tmp_path / "p", tmp_path / "m.png", tmp_path / "out")
    assert [job.problem is None for job in jobs] == [True, False, False]
    assert "deep/b.dng is a picture of a kind that is not read" in str(jobs[2].problem)
    touch(tmp_path, "out/a.png")
    assert settle_existing(jobs, resume=True, overwrite=False) == [True, False, False]
    assert problems(tmp_path, masks="m.png", exclude=["*.heic", "*.dng"]) == {}


@pytest.mark.parametrize("output", [".", "set", "set/out"])
def test_outputs_or_masks_above_the_photos(
    tmp_path: Path, output: str, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "set/images/b.png", "set/b_mask.png", "holes/b.png")
    if output != "set":  # there they would lie among the masks
        found = outputs(tmp_path, "set/images", "set", output)
        assert list(found.values()) == ["set/b_mask.png"]
    assert list(outputs(tmp_path, "set/images", "holes", output).values()) == ["holes/b.png"]
    assert caplog.text == ""


def test_other_pictures_in_the_folder_of_the_outputs_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "p/a.jpg", "p/filled/a.png", "m.png")
    outputs(tmp_path, "p", "m.png", "p/filled")
    assert caplog.text == ""
    touch(tmp_path, "p/filled/b.jpg", "p/filled/c.jpg")
    outputs(tmp_path, "p", "m.png", "p/filled")
    assert "p/filled/b.jpg and 1 more in the folder of the outputs" in caplog.text


def test_outputs_among_the_masks_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.jpg", "m/a_mask.png", "m/filled/a.png")
    with pytest.raises(UsageError, match="would lie among the masks"):
        outputs(tmp_path, "p", "m", "m")
    assert outputs(tmp_path, "p", "m", "m/filled") == {"m/filled/a.png": "m/a_mask.png"}


@pytest.mark.parametrize(
    "masks",
    ["a.jpg a.png", "a.png a_mask.png", "a_mask.png a_mask001.png", "a.png A.png"],
)
def test_several_masks_that_could_be_meant_are_a_question(tmp_path: Path, masks: str) -> None:
    names = [f"m/{name}" for name in masks.split()]
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "m/b.png", *names)
    (said,) = problems(tmp_path).values()
    assert "found 2 masks" in said
    assert all(name in said for name in names)
    assert "p/a.jpg; needed one" in said
    assert problems(tmp_path, exclude=[f"*/{names[0]}"]) == {}


def test_a_photo_is_no_mask_of_itself(tmp_path: Path) -> None:
    touch(tmp_path, "all/c.jpg", "all/c_mask.png")
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset/c.jpg").symlink_to("../all/c.jpg")
    for photos in ("subset", "all/c.jpg"):
        assert outputs(tmp_path, photos, "all", "out") == {"out/c.png": "all/c_mask.png"}


def test_an_empty_folder_says_what_was_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "p/filled/a.jpg", "m.png", "q/m.png")
    for places, why in (
        (("p", "m.png", "p/filled"), r".*p/filled is left out"),
        (("q", "q/m.png", "out"), r".*q/m\.png is a mask"),
    ):
        with pytest.raises(InputError, match=f"holds no pictures {why}"):
            outputs(tmp_path, *places)
